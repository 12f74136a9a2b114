"""The parrot engine says its prompt's last message again, from wherever it has to go on."""

from __future__ import annotations

import msgspec

from parhelion.testing.parrot import TURN_BEGINS, TURN_ENDS, ParrotEngine, said_last
from parhelion.words import Job, SamplerParams, Step

ROLE = (41, 42)
PROMPT = (
    *(TURN_BEGINS, *ROLE, 100, 101, TURN_ENDS, 42),
    *(TURN_BEGINS, *ROLE, 200, 201, 202, TURN_ENDS, 42),
    *(TURN_BEGINS, *ROLE),
)


def test_the_last_whole_message_is_what_is_said_again_and_ended() -> None:
    assert said_last(PROMPT) == (200, 201, 202, TURN_ENDS)


def test_a_prompt_without_turns_is_said_again_whole() -> None:
    assert said_last((7, 8)) == (7, 8, TURN_ENDS)


JOB = Job(job="j", attempt=0, digest="d", cache_scope="s", prompt_ids=PROMPT, seed=9, max_tokens=40)


async def steps(job: Job) -> list[Step]:
    return [step async for step in ParrotEngine().generate(job)]


async def test_a_resumed_answer_goes_on_where_it_was_and_ends_once() -> None:
    rest = await steps(msgspec.structs.replace(JOB, output_ids=(200,)))
    assert [(step.start, step.ids, step.finish) for step in rest] == [
        (1, (201,), None),
        (2, (202,), None),
        (3, (TURN_ENDS,), "eog"),
    ]


async def test_an_answer_that_is_too_long_ends_at_its_length() -> None:
    made = await steps(msgspec.structs.replace(JOB, max_tokens=2))
    assert [step.finish for step in made] == [None, "length"]


async def test_a_changed_id_is_found_where_it_stands() -> None:
    (found,) = await ParrotEngine().score(PROMPT, (200, 999, 202), SamplerParams(), 0)
    assert (found.position, found.expected, found.found) == (1, 201, 999)
