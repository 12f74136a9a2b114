"""What the console sees of a coordinator: who serves what, and how fast nodes were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parhelion.coordinator.console import Sights
from parhelion.coordinator.registry import Registry
from parhelion.coordinator.views import ModelNodes
from parhelion.models import Catalogue

if TYPE_CHECKING:
    from parhelion.coordinator.coordinator import Coordinator


def sights_of(owner: Coordinator, catalogue: Catalogue) -> Sights:
    """Each is asked of its owner whenever it is shown."""

    def models() -> tuple[ModelNodes, ...]:
        serving, is_open = owner.servers(), owner.takes_prompts()
        ids = (model.card.id for model in catalogue.models())
        counted = ((id, serving.get(id, 0)) for id in ids)
        return tuple(
            ModelNodes(id=id, nodes=nodes, available=is_open and nodes > 0) for id, nodes in counted
        )

    return Sights(
        answers=owner.service.answers,
        waiting=lambda: owner.places.waiting,
        models=models,
        nodes_tokens_per_s=lambda: measured_tokens_per_s(owner.registry),
        name_of=owner.name_of,
    )


def measured_tokens_per_s(registry: Registry) -> float | None:
    """The sum of what the nodes that serve now were measured at; None where none was.

    Of a pipeline its own measure, which is that of its nodes together.
    """
    rates = [node.tokens_per_s for node in registry.nodes() if node.state == "ready"]
    measured = [rate for rate in rates if rate is not None]
    return sum(measured) if measured else None
