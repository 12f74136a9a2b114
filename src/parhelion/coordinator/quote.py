"""What an ask can cost at most: the counts resolved against the model's context; pure."""

from __future__ import annotations

from collections.abc import Sequence

from parhelion.ledger import tier_max_tokens
from parhelion.words import Ask, ModelCard, Problem, ProblemCode, Quote, Rate

FOREIGN_IDS = "these look like ids of another model's vocabulary: send the text instead"


def quote(
    ask: Ask,
    card: ModelCard,
    prompt_ids: Sequence[int],
    rates: tuple[Rate, ...],
    capacity_tokens: int | None = None,
) -> Quote:
    """The quote of `ask`, or Problem when it cannot fit the model.

    An absent `max_tokens` becomes the model's default, as far as the context leaves room;
    `capacity_tokens` (the largest request that a node of the pool can hold) bounds it too. One
    that was given is honoured or refused, never shortened in silence; but for a tier's, which says
    itself how long its answers are at most.
    """
    _check_ids(ask, card, prompt_ids)
    left = card.context - len(prompt_ids)
    if left < 1:
        raise Problem(
            ProblemCode.CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {len(prompt_ids)} tokens and leaves no room in the context of "
            f"{card.context} tokens of {card.id}",
            hint=f"shorten it by {1 - left} tokens: {card.context - 1} and one of an answer fit",
            param="messages" if ask.messages is not None else "prompt",
        )
    return Quote(
        model=card,
        prompt_ids=tuple(prompt_ids),
        max_tokens=_max_tokens(ask, card, len(prompt_ids), left, capacity_tokens),
        rates=rates,
    )


def _check_ids(ask: Ask, card: ModelCard, prompt_ids: Sequence[int]) -> None:
    if not prompt_ids:
        raise _invalid("the prompt has no tokens", "prompt", "send at least one character")
    # Those that our own tokeniser made of a text are the vocabulary's: 450 take 20 microseconds.
    is_text = ask.messages is not None or isinstance(ask.prompt, str)
    if not is_text and (min(prompt_ids) < 0 or max(prompt_ids) >= card.n_vocab):
        raise _invalid(f"token ids of {card.id} are 0 to {card.n_vocab - 1}", "prompt", FOREIGN_IDS)
    for token, _bias in ask.params.logit_bias:
        if not 0 <= token < card.n_vocab:
            raise _invalid(
                f"logit_bias names token {token}; those of {card.id} are 0 to {card.n_vocab - 1}",
                "logit_bias",
                FOREIGN_IDS,
            )


def _max_tokens(
    ask: Ask, card: ModelCard, prompt_tokens: int, left: int, capacity_tokens: int | None
) -> int:
    room = left if capacity_tokens is None else min(left, capacity_tokens - prompt_tokens)
    if ask.tier is not None:
        return max(1, min(tier_max_tokens(ask.tier, ask.max_tokens), room))
    if ask.max_tokens is None:
        # A prompt beyond every node's memory keeps one token here: placing it says NO_NODE.
        return max(1, min(card.default_max_tokens, room))
    if ask.max_tokens < 1:
        raise _invalid("max_tokens must be at least 1", "max_tokens", f"at most {left} fit here")
    if ask.max_tokens > left:
        raise Problem(
            ProblemCode.CONTEXT_LENGTH_EXCEEDED,
            f"{prompt_tokens} prompt tokens and max_tokens {ask.max_tokens} make "
            f"{prompt_tokens + ask.max_tokens}, more than the context of {card.context} tokens "
            f"of {card.id}",
            hint=f"at most max_tokens {left} fits with this prompt",
            param="max_tokens",
        )
    return ask.max_tokens


def _invalid(message: str, param: str, hint: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=hint, param=param)
