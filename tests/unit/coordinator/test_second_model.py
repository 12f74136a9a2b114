"""A model that is added gets the nodes of another one's second pipeline, and streams go on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.coordinator.pipeline_state import PipelineState
from parhelion.link import LoadStage, StageFailed, UnloadStage
from parhelion.words import Problem
from tests.unit.coordinator.rings import Rig, StageNode

OTHER = "9" * 64
NAME = "tests/second"


class FullNode:
    """Has room for one stage: whatever else it is to load it refuses, as a real node does."""

    def __init__(self, node: StageNode) -> None:
        self._node = node
        self._obey = node.obey
        self.holds: set[str] = set(node.loaded)
        self.refused = 0
        node.obey = self.obey  # type: ignore[method-assign]

    def obey(self, message: Any) -> None:
        match message:
            case UnloadStage(stage=stage):
                self.holds.discard(stage)
            case LoadStage(stage=stage) if self.holds - {stage}:
                self.refused += 1
                text = "all that this node offers is taken by other stages"
                self._node.hear(StageFailed(stage=stage, code="overloaded", message=text))
                return
            case LoadStage(stage=stage):
                self.holds.add(stage)
            case _:
                pass
        self._obey(message)


def add_model(rig: Rig) -> None:
    """What `parhelion models add` comes to."""
    catalogue = rig.pool.catalogue
    card = msgspec.structs.replace(catalogue.model.card, id=NAME, digest=OTHER)
    shown = (catalogue.model, type(catalogue.model)(card))
    catalogue.models = lambda: shown
    rig.pool.coordinator.catalogue_changed()


def serving(rig: Rig, digest: str) -> list[tuple[str, ...]]:
    return [
        one.session.peers
        for one in rig.pipelines.deployments.values()
        if one.digest == digest and one.session is not None and one.state is PipelineState.SERVING
    ]


async def two_of_one_each(rig: Rig) -> list[FullNode]:
    """Two nodes that each hold the whole model, and no second one beside it."""
    nodes = [await rig.join(layers=6) for _ in range(2)]
    await rig.until(lambda: len(serving(rig, rig.pool.DIGEST)) == 2)
    return [FullNode(one) for one in nodes]


async def test_a_model_that_is_added_is_served_where_another_has_two_pipelines(rig: Rig) -> None:
    full = await two_of_one_each(rig)
    _account, secret = await rig.pool.user(1000)
    with pytest.raises(Problem, match="no such model"):
        await rig.pool.serve(secret, model=NAME)
    add_model(rig)
    await rig.until(lambda: serving(rig, OTHER))
    assert len(serving(rig, rig.pool.DIGEST)) == 1
    assert serving(rig, OTHER) != serving(rig, rig.pool.DIGEST)
    assert rig.pipelines.plan.unplaced == ()
    assert [len(one.holds) for one in full] == [1, 1]
    # It is a place like any other.
    answer = await rig.pool.serve(secret, model=NAME)
    ((peer,),) = serving(rig, OTHER)
    node = rig.nodes[peer]
    await rig.until(lambda: node.went)
    node.made(node.went[-1].job, 0, (rig.pool.A,) * 4, "length")
    text, _last = await rig.pool.read(answer)
    assert text == "aaaa"
    view = await rig.pool.coordinator.plan()
    assert any("gave way to it" in line for line in view.reasons)


async def test_streams_of_what_gives_way_end_there_or_go_on_at_the_first_pipeline(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.deployment.GIVE_WAY_S", 1.0)
    full = await two_of_one_each(rig)
    _account, secret = await rig.pool.user(10_000)
    answers = [await rig.pool.serve(secret, max_tokens=4) for _ in range(2)]
    nodes = list(rig.nodes.values())
    await rig.until(lambda: all(one.went for one in nodes))
    for one in nodes:
        one.made(one.went[0].job, 0, (rig.pool.A,))
    add_model(rig)
    await rig.until(lambda: len(rig.pipelines.deployments) == 3)
    # Nothing breaks before the new one could load; the stream has its time where it is.
    await rig.until(lambda: len(serving(rig, rig.pool.DIGEST)) == 1)
    assert not serving(rig, OTHER)
    await rig.until(lambda: serving(rig, OTHER))
    ((kept,),) = serving(rig, rig.pool.DIGEST)
    node = rig.nodes[kept]
    await rig.until(lambda: len(node.went) == 2)
    for go in node.went:
        node.made(go.job, 1, (rig.pool.B, rig.pool.B, rig.pool.B), "length")
    read = await asyncio.gather(*map(rig.pool.read, answers))
    assert [text for text, _ in read] == ["abbb", "abbb"]
    assert sorted(last.usage.migrations for _, last in read) == [0, 1]
    assert sum(one.refused for one in full) > 0, "it was tried while the other one drained"
    assert not rig.pipelines.seen().left_out, "and that is held against nobody"
    await rig.pool.assert_settled()
