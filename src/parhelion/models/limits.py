"""What is checked of an ask before anything is sent to the tokeniser host; pure."""

from __future__ import annotations

from parhelion.words import Ask, ModelCard, Problem, ProblemCode

BYTES_PER_TOKEN_LIMIT = 16
"""No text that people write has more bytes a token; longer than this times the context is refused
unread, so that the host never sees a text that cannot fit anyway."""

MESSAGE_COST_BYTES = BYTES_PER_TOKEN_LIMIT
"""Every message takes at least one token of template around it, so an empty one counts too."""

_ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for the same; no open model's template knows it.
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def turns(ask: Ask) -> tuple[tuple[str, str], ...] | None:
    """Role and content of each message as templates know them; None for a raw prompt."""
    if ask.messages is None:
        return None
    if not ask.messages:
        raise _malformed("there must be at least one message", "messages")
    found: list[tuple[str, str]] = []
    for number, message in enumerate(ask.messages):
        role = _ROLES.get(message.role)
        if role is None:
            # A role is written into template text, where special tokens count: only known ones.
            raise _malformed(f"{message.role[:40]!r} is no role", f"messages.{number}.role")
        found.append((role, message.content))
    return tuple(found)


def check_size(ask: Ask, card: ModelCard) -> None:
    """Problem CONTEXT_LENGTH_EXCEEDED when the text has more bytes than the context can hold."""
    cap_bytes = card.context * BYTES_PER_TOKEN_LIMIT
    size_bytes = 0
    for text in _texts(ask):
        # Characters first: counting them is free, and no encoding makes bytes fewer.
        if len(text) > cap_bytes:
            size_bytes += len(text)
        else:
            size_bytes += _size_bytes(text)
        if ask.messages is not None:
            size_bytes += MESSAGE_COST_BYTES
        if size_bytes > cap_bytes:
            raise _too_long(ask, card, f"have more than the {cap_bytes} bytes that it can hold")


def check_ids(ask: Ask, card: ModelCard, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids, if there is at least one and room for one more; else a Problem."""
    if not ids:
        raise _malformed(
            "the prompt is empty, or holds nothing that this model's vocabulary knows", "prompt"
        )
    if len(ids) >= card.context:
        fit = _fit(ask, card)
        over = f"shorten it by {len(ids) - fit:,} tokens: {_room(ask, card)}"
        raise _too_long(ask, card, f"resulted in {len(ids)} tokens", over)
    return ids


def check_given_ids(ask: Ask, card: ModelCard, ids: tuple[int, ...]) -> tuple[int, ...]:
    """A prompt that came as ids, if each is an id of the vocabulary and all fit."""
    checked = check_ids(ask, card, ids)
    if min(checked) < 0 or max(checked) >= card.n_vocab:
        raise _malformed(
            f"token ids of this model are 0 to {card.n_vocab - 1}",
            "prompt",
            "these look like ids of another model's vocabulary: send the text instead",
        )
    return checked


def field(ask: Ask) -> str:
    """The request field that a problem with the text is about."""
    return "prompt" if ask.messages is None else "messages"


def _texts(ask: Ask) -> tuple[str, ...]:
    if ask.messages is not None:
        return tuple([message.content for message in ask.messages])
    return (ask.prompt,) if isinstance(ask.prompt, str) else ()


def _size_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise _malformed("the text has a lone surrogate, which is no character", None) from error


def _too_long(ask: Ask, card: ModelCard, what: str, hint: str = "") -> Problem:
    name = "messages" if ask.messages is not None else "prompt"
    verb = what if name == "messages" else what.replace("have", "has", 1)
    return Problem(
        ProblemCode.CONTEXT_LENGTH_EXCEEDED,
        f"This model's maximum context length is {card.context} tokens. However, your {name} "
        f"{verb}. Please reduce the length of the {name}.",
        hint=hint or f"about 4 characters of English are a token: {_room(ask, card)}",
        param=field(ask),
    )


def _fit(ask: Ask, card: ModelCard) -> int:
    """How long a prompt can be: a tier takes less than its model may hold."""
    fit = card.context - 1
    return fit if ask.tier is None else min(fit, ask.tier.max_prompt_tokens)


def _room(ask: Ask, card: ModelCard) -> str:
    """The limit that holds for this ask, in words."""
    fit = _fit(ask, card)
    if ask.tier is not None:
        return f"{ask.tier.name} takes a prompt of at most {fit:,} tokens"
    return f"{fit} tokens and one of an answer fit"


def _malformed(message: str, param: str | None, hint: str = "") -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=hint, param=param)
