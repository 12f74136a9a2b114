"""The outbox: one message a turn for all steps, and nothing overtakes a step."""

from __future__ import annotations

import asyncio
from typing import Any

from parhelion.link import Draining, LinkBroken, Steps
from parhelion.node.outbox import STEPS_LIMIT, Outbox
from parhelion.words import ProblemCode, Step


async def test_steps_of_one_turn_leave_as_one_message() -> None:
    said: list[Any] = []
    outbox = Outbox(said.append)

    async def one_job(name: str) -> None:
        outbox.step(Step(name, 1, 0, (1,)))

    await asyncio.gather(*(one_job(str(n)) for n in range(16)))
    await asyncio.sleep(0)
    assert len(said) == 1 and [step.job for step in said[0].steps] == [str(n) for n in range(16)]
    outbox.step(Step("x", 1, 1, (2,)))
    await asyncio.sleep(0)
    assert len(said) == 2


async def test_a_message_comes_after_every_step_before_it() -> None:
    said: list[Any] = []
    outbox = Outbox(said.append)
    outbox.step(Step("a", 1, 0, (1,)))
    outbox.say(Draining(reason="r"))
    outbox.step(Step("a", 1, 1, (2,)))
    await asyncio.sleep(0)
    assert [type(message) for message in said] == [Steps, Draining, Steps]


async def test_a_flood_in_one_turn_is_cut_into_bounded_messages() -> None:
    said: list[Any] = []
    outbox = Outbox(said.append)
    for n in range(2 * STEPS_LIMIT + 1):
        outbox.step(Step("a", 1, n, (1,)))
    await asyncio.sleep(0)
    assert [len(message.steps) for message in said] == [STEPS_LIMIT, STEPS_LIMIT, 1]


async def test_a_broken_link_is_left_to_the_reader() -> None:
    def post(_: object) -> None:
        raise LinkBroken(ProblemCode.LINK_BROKEN, "gone")

    outbox = Outbox(post)
    outbox.step(Step("a", 1, 0, (1,)))
    outbox.say(Draining(reason="r"))
