"""What an ask can cost at most: counts are resolved once, or refused with the numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.coordinator import quote
from parhelion.words import Ask, ModelCard, Problem, ProblemCode, Quote, SamplerParams

CARD = ModelCard(
    id="m", digest="d", vocabulary_digest="v", template_digest="t", purpose="chat", size_bytes=1,
    memory_bytes=1, context=100, default_max_tokens=30, n_vocab=10, architecture="a", layers=1,
    created_s=0,
)  # fmt: skip


def quoted(prompt: int = 10, capacity: int | None = None, **fields: Any) -> Quote:
    ask = msgspec.structs.replace(Ask(request="req_x", dialect="chat"), **fields)
    return quote(ask, CARD, (1,) * prompt, (), capacity)


def refused(**fields: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        quoted(**fields)
    return caught.value


def test_absent_max_tokens_is_the_default_as_far_as_the_context_leaves_room() -> None:
    assert quoted(10).max_tokens == 30
    assert quoted(90).max_tokens == 10


def test_absent_max_tokens_is_also_bounded_by_what_a_node_can_hold() -> None:
    assert quoted(10, capacity=25).max_tokens == 15
    assert quoted(30, capacity=25).max_tokens == 1


def test_a_given_max_tokens_is_honoured_or_refused_with_the_numbers() -> None:
    assert quoted(10, max_tokens=90).max_tokens == 90
    problem = refused(prompt=10, max_tokens=91)
    assert problem.code == ProblemCode.CONTEXT_LENGTH_EXCEEDED
    assert "101" in problem.message and "100" in problem.message and "90" in problem.hint


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    problem = refused(prompt=100)
    assert (problem.code, problem.param) == (ProblemCode.CONTEXT_LENGTH_EXCEEDED, "prompt")


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_no_tokens_cannot_be_asked_for(max_tokens: int) -> None:
    assert refused(max_tokens=max_tokens).param == "max_tokens"


def test_an_empty_prompt_is_refused() -> None:
    assert refused(prompt=0).code == ProblemCode.INVALID_REQUEST


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(Problem) as caught:
        quote(Ask(request="r", dialect="chat"), CARD, (1, 10), ())
    assert caught.value.param == "prompt"
    biased = SamplerParams(logit_bias=((10, 1.0),))
    assert refused(params=biased).param == "logit_bias"
