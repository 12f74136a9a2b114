"""Who serves a slice to whom: neighbours that have it, few at once, and nobody is waited for."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from parhelion.coordinator.holders import HOLDERS_LIMIT, LOADS_LIMIT, Holders
from parhelion.coordinator.pipeline_state import PipelineState
from parhelion.coordinator.session import NodeSession
from parhelion.link import LoadStage, PairUp, ServeSlice
from parhelion.models import SliceCard
from parhelion.words import Problem, ProblemCode
from tests.unit.coordinator.rings import Rig, StageNode

DIGEST = "d" * 64
STAGE = "dddddddddddddddd:0-2"
CARD = SliceCard(digest=DIGEST, start=0, end=3, size_bytes=10, sha256="a" * 64)
HERE = ("127.0.0.1:4001",)


def session(rig: Rig, one: StageNode) -> NodeSession:
    member = rig.workshop.registry.member(one.peer)
    assert isinstance(member, NodeSession)
    return member


def holders(rig: Rig) -> Holders:
    """Apart from those of the pipelines, which go on meanwhile."""
    return Holders(rig.workshop.registry, rig.workshop.orders)


async def test_the_second_pipeline_fetches_from_the_nodes_of_the_first(rig: Rig) -> None:
    first = [await rig.join(layers=3, direct=HERE) for _ in range(2)]
    await rig.serving()
    assert not any(order.holders for one in first for order in one.loads), "nobody had it yet"
    second = [await rig.join(layers=3, direct=HERE) for _ in range(2)]
    await rig.until(
        lambda: (
            [one.state for one in rig.pipelines.deployments.values()] == [PipelineState.SERVING] * 2
        )
    )
    by_stage = {one.loads[-1].stage: one for one in first}
    for fetcher in second:
        load = fetcher.loads[0]
        holder = by_stage[load.stage]
        (dials,) = load.holders
        (told,) = holder.serves
        assert (dials.peer, dials.role, dials.direct) == (holder.peer, "dial", HERE)
        assert (told.ticket.peer, told.ticket.role) == (fetcher.peer, "accept")
        assert (told.ticket.link, told.ticket.secret) == (dials.link, dials.secret)
        assert (told.digest, told.size_bytes, told.sha256) == (DIGEST, 10, load.sha256)
        assert load.stage.endswith(f":{told.start}-{told.end - 1}")
    assert not any(one.serves for one in second)
    left = {one.link for one in rig.pool.coordinator.relays.views()}
    assert not left & {one.loads[0].holders[0].link for one in second}


async def test_the_holder_is_told_before_the_other_node_can_dial(rig: Rig) -> None:
    holder, fetcher = await rig.join(layers=1, direct=HERE), await rig.join(layers=1)
    ours = holders(rig)
    ours.note(session(rig, holder), STAGE)
    with ours.serving(session(rig, fetcher), STAGE, CARD) as tickets:
        assert len(tickets) == 1
        (told,) = [one for one in holder.node.carrier.said if isinstance(one, ServeSlice)]
        assert told.ticket.link == tickets[0].link
    assert not any(isinstance(one, LoadStage) for one in fetcher.node.carrier.said)


async def test_who_has_the_whole_file_can_serve_any_slice(rig: Rig) -> None:
    holder = await rig.join(layers=1, direct=HERE, whole=(DIGEST,))
    fetcher = await rig.join(layers=1, direct=HERE)
    ours = holders(rig)
    with ours.serving(session(rig, fetcher), STAGE, CARD) as tickets:
        assert [one.peer for one in tickets] == [holder.peer]
    with ours.serving(session(rig, holder), STAGE, CARD) as tickets:
        assert tickets == (), "it cuts its slice itself"


async def test_nobody_is_asked_who_cannot_serve_it_directly(rig: Rig) -> None:
    fetcher = await rig.join(layers=1, direct=HERE)
    ours = holders(rig)

    def asked() -> list[str]:
        with ours.serving(session(rig, fetcher), STAGE, CARD) as tickets:
            return [one.peer for one in tickets]

    assert asked() == []
    mute = await rig.join(layers=1)  # It listens nowhere.
    other = await rig.join(layers=1, direct=HERE)
    ours.note(session(rig, mute), STAGE)
    ours.note(session(rig, other), "dddddddddddddddd:3-5")
    ours.note(session(rig, fetcher), "dddddddddddddddd:3-5")
    assert asked() == []
    ours.note(session(rig, other), STAGE)
    assert asked() == [other.peer]
    orders = rig.workshop.orders
    for path, is_asked in (("relay", False), ("direct", True)):
        orders._note_ends("link", fetcher.peer, other.peer)
        orders.hear(session(rig, other), PairUp(link="link", path=path, rtt_ms=1.0))
        assert asked() == [other.peer] * is_asked
    session(rig, other).node.leaving = "its operator stopped it"
    assert asked() == []
    session(rig, other).node.leaving = None
    ours.forget(session(rig, other))
    assert asked() == []
    ours.note(session(rig, other), STAGE)
    ours.note(session(rig, fetcher), STAGE)
    assert asked() == [], "it has the slice itself"


async def test_few_are_asked_and_none_for_too_many_at_once(rig: Rig) -> None:
    having = [await rig.join(layers=1, direct=HERE) for _ in range(3)]
    fetcher = session(rig, await rig.join(layers=1))
    ours = holders(rig)
    for one in having:
        ours.note(session(rig, one), STAGE)
    with contextlib.ExitStack() as loads:
        given = [
            [one.peer for one in loads.enter_context(ours.serving(fetcher, STAGE, CARD))]
            for _ in range(4)
        ]
        assert [len(one) for one in given] == [HOLDERS_LIMIT, HOLDERS_LIMIT, HOLDERS_LIMIT, 0]
        every = [peer for one in given for peer in one]
        assert {every.count(one.peer) for one in having} == {LOADS_LIMIT}
    assert not ours._asked
    with ours.serving(fetcher, STAGE, CARD) as tickets:
        assert len(tickets) == HOLDERS_LIMIT


async def test_where_there_is_no_link_to_spare_the_coordinator_serves(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, fetcher = await rig.join(layers=1, direct=HERE), await rig.join(layers=1)
    ours = holders(rig)
    ours.note(session(rig, holder), STAGE)

    def refused(*_: Any) -> Any:
        raise Problem(ProblemCode.OVERLOADED, "the relay carries as many links as it may")

    monkeypatch.setattr(rig.workshop.orders, "serve", refused)
    with ours.serving(session(rig, fetcher), STAGE, CARD) as tickets:
        assert tickets == ()
    assert not ours._asked


async def test_a_load_that_fails_takes_its_links_back(rig: Rig) -> None:
    holder, fetcher = await rig.join(layers=1, direct=HERE), await rig.join(layers=1)
    ours = holders(rig)
    ours.note(session(rig, holder), STAGE)
    relays = rig.pool.coordinator.relays
    with pytest.raises(RuntimeError), ours.serving(session(rig, fetcher), STAGE, CARD):
        assert len(relays.views()) == 1
        raise RuntimeError
    assert relays.views() == () and not ours._asked


async def test_a_node_that_left_is_not_remembered(rig: Rig) -> None:
    stages = [await rig.join(layers=3, direct=HERE) for _ in range(2)]
    await rig.serving()
    ours = rig.workshop.holders
    assert len(ours._have) == 2
    gone = session(rig, stages[0])
    stages[0].node.die()
    await rig.until(lambda: gone not in ours._have)
    ours.note(gone, STAGE)
    assert gone not in ours._have
