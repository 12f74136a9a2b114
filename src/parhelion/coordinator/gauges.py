"""What /metrics shows of the pool: read from its owners whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from parhelion.coordinator.journal import Journal
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.pipelines import Pipelines
from parhelion.coordinator.place import Places
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.relaying import Relays
from parhelion.coordinator.serve import Service


def show_pool(
    metrics: Metrics,
    *,
    registry: Registry,
    joining: Callable[[], int],
    places: Places,
    service: Service,
    journal: Journal,
) -> None:
    """Nodes, slots, the queue, open holds."""

    def in_state(state: str) -> float:
        if state == "joining":
            return joining()
        # A pipeline is no machine: its nodes are counted by themselves.
        return sum(node.state == state and not node.stages for node in registry.nodes())

    def nodes() -> Iterable[Node]:
        """Where jobs run: a node that has layers only runs none by itself."""
        return (node for node in registry.nodes() if node.rooms)

    metrics.watch_nodes(in_state)
    metrics.watch(
        {
            "parhelion_slots": ("Slots of all nodes", lambda: sum(n.slots for n in nodes())),
            "parhelion_slots_busy": ("Slots at work", lambda: sum(n.slots_busy for n in nodes())),
            "parhelion_queue_length": ("Requests that wait for a slot", lambda: places.waiting),
            "parhelion_holds_open": (
                "Requests between hold and post or void",
                lambda: sum(relay is not None for relay in service.live.values()),
            ),
            "parhelion_journal_marks": (
                "Journal lines written since the start",
                lambda: journal.marks_written,
            ),
        }
    )


def show_pipelines(metrics: Metrics, pipelines: Pipelines, relays: Relays) -> None:
    """Pipelines by state, the layers that nodes hold, and what goes between them through here."""

    def in_state(state: str) -> float:
        return sum(one.state == state for one in pipelines.deployments.values())

    metrics.watch_pipelines(in_state)
    metrics.watch(
        {
            "parhelion_stages": (
                "Stages of pipelines that nodes have loaded",
                lambda: sum(len(one.layers.held_bytes) for one in pipelines.deployments.values()),
            ),
            "parhelion_standby_nodes": (
                "Nodes that offer memory and have no layers",
                lambda: len(pipelines.plan.standby),
            ),
            "parhelion_plan_changes": (
                "How often layers were dealt otherwise, since the start",
                lambda: pipelines.changes,
            ),
            "parhelion_relayed_bytes": (
                "Sealed bytes between nodes that went through here, since the start",
                lambda: relays.relayed_bytes,
            ),
        }
    )
