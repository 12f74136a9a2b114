"""A node as anyone may see it, from what the coordinator knows of it; pure."""

from __future__ import annotations

from parhelion.coordinator.pipeline_views import is_standby
from parhelion.coordinator.registry import Node
from parhelion.coordinator.views import ModelState, NodeView, StageView
from parhelion.models import Catalogue


def node_view(
    node: Node,
    states: tuple[ModelState, ...],
    stages: tuple[StageView, ...],
    refusal: str | None,
) -> NodeView:
    """One connected node; `refusal` is why it may hold no layers, where that is so."""
    card = node.card
    offer = card.stage
    is_full = node.slots_busy >= card.slots
    state = "busy" if node.state == "ready" and is_full else node.state
    reason = node.reason
    if refusal is not None and state == "ready":
        state, reason = "refused", refusal
    return NodeView(
        name=card.name,
        peer=node.peer,
        operator=node.operator,
        state=state,
        reason=reason,
        models=tuple(one.model for one in states),
        model_states=states,
        slots=card.slots,
        slots_busy=node.slots_busy,
        utilisation=node.slots_busy / card.slots,
        tokens_per_s=node.tokens_per_s,
        first_id_s=node.first_id_s,
        success_rate=node.success_rate,
        samples=node.samples,
        version=card.version,
        device=node.device or None,
        backend=card.backend or None,
        connected_at_ms=node.connected_at_ms,
        served=node.served,
        failed=node.failed,
        fallback=node.fallback,
        memory_bytes=None if offer is None else offer.memory_bytes,
        standby=refusal is None and is_standby(node, stages),
        stages=stages,
    )


def model_states(node: Node, catalogue: Catalogue) -> tuple[ModelState, ...]:
    """How each model that it offers and the pool knows fares there."""
    found: list[ModelState] = []
    for digest, room in node.rooms.items():
        model = catalogue.by_digest(digest)
        if model is not None:
            state, reason = room.standing()
            found.append(ModelState(model=model.card.id, state=state, reason=reason))
    return tuple(found)
