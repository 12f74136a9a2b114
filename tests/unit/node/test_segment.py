"""Segments: what a node signs is its own stretch, under the chain of everything before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parhelion.identity import NodeKey
from parhelion.node import segment
from parhelion.proof import ask_digest, chain, opening_hash, segment_holds, sign_segment
from parhelion.words import Job, Segment


def build(job: Job, ids: list[int], to: int, key: NodeKey) -> Segment:
    return segment.build(job, ids, to, node=key.peer, backend="b", started_at_ms=5, ended_at_ms=9)


def test_a_first_attempt_starts_at_0_and_its_head_is_the_proof_chain(
    job: Callable[..., Job], key: NodeKey
) -> None:
    made = build(job(), [7, 8, 9], 2, key)
    assert (made.start, made.to) == (0, 2)
    assert made.head == chain(b"o" * 32, (1, 2, 3), (7, 8)).hex()
    assert made.opening_hash == opening_hash(b"o" * 32) and made.ask == ask_digest(job())
    assert (made.node, made.artefact, made.backend) == (key.peer, "d" * 64, "b")
    assert segment_holds(sign_segment(key, made))


def test_a_later_attempt_starts_where_it_went_on(job: Callable[..., Job], key: NodeKey) -> None:
    resumed = job(attempt=2, output=(7, 8))
    made = build(resumed, [7, 8, 9], 3, key)
    assert (made.start, made.to, made.attempt) == (2, 3, 2)
    assert made.head == chain(b"o" * 32, (1, 2, 3), (7, 8, 9)).hex()
    assert build(resumed, [7, 8], 2, key).to == 2


@pytest.mark.parametrize("to", [-1, 1, 4])
def test_nothing_outside_the_attempt_is_signed(
    to: int, job: Callable[..., Job], key: NodeKey
) -> None:
    with pytest.raises(ValueError, match="outside"):
        build(job(output=(7, 8)), [7, 8, 9], to, key)
