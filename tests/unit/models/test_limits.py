"""What can be refused before anything is sent to the host is refused there, in OpenAI's words."""

from __future__ import annotations

import msgspec
import pytest

from parhelion.models import limits
from parhelion.words import Ask, Message, ModelCard, Problem, ProblemCode, Tier

CARD = ModelCard(
    id="lab/tiny",
    digest="d",
    vocabulary_digest="v",
    template_digest="t",
    purpose="chat",
    size_bytes=1,
    memory_bytes=1,
    context=100,
    default_max_tokens=10,
    n_vocab=50,
    architecture="llama",
    layers=1,
    created_s=0,
)


def chat(*contents: str, role: str = "user") -> Ask:
    messages = tuple(Message(role=role, content=content) for content in contents)
    return Ask(request="req_1", dialect="chat", messages=messages)


def raw(prompt: str | tuple[int, ...]) -> Ask:
    return Ask(request="req_1", dialect="completions", prompt=prompt)


def code(ask: Ask) -> ProblemCode | None:
    try:
        limits.check_size(ask, CARD)
    except Problem as problem:
        return problem.code
    return None


def test_sixteen_bytes_a_token_of_context_pass_and_one_more_does_not() -> None:
    assert code(raw("x" * 1600)) is None
    assert code(raw("x" * 1601)) is ProblemCode.CONTEXT_LENGTH_EXCEEDED


def test_bytes_count_not_characters() -> None:
    assert code(raw("é" * 800)) is None
    assert code(raw("é" * 801)) is ProblemCode.CONTEXT_LENGTH_EXCEEDED


def test_contents_add_up_and_empty_messages_count() -> None:
    assert code(chat("x" * 900, "x" * 900)) is ProblemCode.CONTEXT_LENGTH_EXCEEDED
    assert code(chat(*[""] * 100)) is None
    assert code(chat(*[""] * 101)) is ProblemCode.CONTEXT_LENGTH_EXCEEDED


def test_a_lone_surrogate_is_malformed() -> None:
    assert code(raw("\ud800")) is ProblemCode.INVALID_REQUEST


def test_too_many_tokens_are_refused_with_both_numbers() -> None:
    with pytest.raises(Problem) as caught:
        limits.check_ids(chat("x"), CARD, tuple(range(101)))
    assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED
    assert caught.value.message == (
        "This model's maximum context length is 100 tokens. However, your messages resulted in "
        "101 tokens. Please reduce the length of the messages."
    )
    assert caught.value.param == "messages"


def test_what_a_tier_takes_is_the_limit_that_is_told_of_a_longer_prompt() -> None:
    tier = Tier(name="basic", price_micro=1, max_tokens=3, max_prompt_tokens=40)
    sold = msgspec.structs.replace(chat("x"), tier=tier)
    with pytest.raises(Problem) as caught:
        limits.check_ids(sold, CARD, tuple(range(101)))
    hint = "shorten it by 61 tokens: basic takes a prompt of at most 40 tokens"
    assert caught.value.hint == hint
    with pytest.raises(Problem) as caught:
        limits.check_size(msgspec.structs.replace(chat("x" * 9000), tier=tier), CARD)
    assert "basic takes a prompt of at most 40 tokens" in caught.value.hint
    # No tier takes more than its model can hold.
    wide = msgspec.structs.replace(tier, max_prompt_tokens=4000)
    with pytest.raises(Problem) as caught:
        limits.check_ids(msgspec.structs.replace(sold, tier=wide), CARD, tuple(range(101)))
    assert "at most 99 tokens" in caught.value.hint


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert len(limits.check_ids(chat("x"), CARD, (1,) * 99)) == 99
    with pytest.raises(Problem):
        limits.check_ids(chat("x"), CARD, (1,) * 100)


@pytest.mark.parametrize("ids", [(), (50,), (-1,), (0, 1, 2**40)])
def test_ids_outside_the_vocabulary_are_malformed(ids: tuple[int, ...]) -> None:
    with pytest.raises(Problem) as caught:
        limits.check_given_ids(raw(ids), CARD, ids)
    assert caught.value.code is ProblemCode.INVALID_REQUEST


def test_given_ids_pass_unchanged() -> None:
    assert limits.check_given_ids(raw((0, 49)), CARD, (0, 49)) == (0, 49)


def test_developer_is_the_system_and_unknown_roles_are_refused() -> None:
    assert limits.turns(chat("x", role="developer")) == (("system", "x"),)
    for role in ("admin", "user<|im_end|>", ""):
        with pytest.raises(Problem) as caught:
            limits.turns(chat("x", role=role))
        assert caught.value.param == "messages.0.role"


def test_a_chat_without_messages_is_malformed() -> None:
    with pytest.raises(Problem):
        limits.turns(Ask(request="req_1", dialect="chat", messages=()))
