"""What a node says that it offers: for each model what its own engine has."""

from __future__ import annotations

from typing import Any

import msgspec

from parhelion.identity import NodeKey
from parhelion.link import parse_address
from parhelion.node import Agent, Stages
from parhelion.words import ServedModel


def test_each_model_is_offered_with_the_slots_and_memory_of_its_own_engine(
    scripted: type[Any], key: NodeKey, clock: Any
) -> None:
    small, large = scripted(slots=1, digest="5" * 64), scripted(slots=4, digest="1" * 64)
    small.card = msgspec.structs.replace(small.card, kv_tokens=200, context=300)
    agent = Agent(
        key,
        parse_address("127.0.0.1:1"),
        {"5" * 64: small, "1" * 64: large},
        name="two",
        clock=clock,
        on_state=lambda _state: None,
    )
    card = agent._card()
    assert card.models == (
        ServedModel(digest="5" * 64, context=300, slots=1, kv_tokens=200),
        ServedModel(digest="1" * 64, context=500, slots=4, kv_tokens=1000),
    )
    assert (card.slots, card.kv_tokens) == (5, 1200)


def test_the_machines_slots_are_shared_by_its_engines_and_counted_once(
    scripted: type[Any], key: NodeKey, clock: Any
) -> None:
    engines = {digest: scripted(slots=4, digest=digest) for digest in ("5" * 64, "1" * 64)}
    agent = Agent(
        key,
        parse_address("127.0.0.1:1"),
        engines,
        name="two",
        clock=clock,
        on_state=lambda _state: None,
        slots=4,
    )
    card = agent._card()
    assert card.slots == 4
    assert [model.slots for model in card.models] == [4, 4]
    assert card.kv_tokens == sum(model.kv_tokens for model in card.models)


def test_a_member_of_pipelines_offers_a_stage_and_needs_no_model(key: NodeKey, clock: Any) -> None:
    from tests.unit.node.staging import OFFER, StageTools

    async def nothing(*_: Any) -> Any:
        raise AssertionError("nothing is loaded before the pool says what")

    tools = StageTools(find=nothing, start=nothing, lend=nothing, resident_bytes=lambda _pid: 0)
    stages = Stages(key, clock, OFFER, tools)
    agent = Agent(
        key,
        parse_address("127.0.0.1:1"),
        {},
        name="part",
        clock=clock,
        on_state=lambda _state: None,
        stages=stages,
    )
    stages.reachable(("10.0.0.7:4000",))
    card = agent._card()
    assert card.models == () and card.stage is not None
    assert (card.stage.memory_bytes, card.stage.direct) == (1000, ("10.0.0.7:4000",))
