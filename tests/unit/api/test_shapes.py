"""What rooms say of an answer is what clients get: no field is lost between the two shapes."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec

from parhelion.api.answers import UsageBody, usage_body
from parhelion.words import Usage


def filled() -> Usage:
    """A usage in which no two fields of one type are alike."""
    values: dict[str, Any] = {}
    for number, (name, kind) in enumerate(get_type_hints(Usage).items(), start=1):
        if kind is int:
            values[name] = number
        elif kind is str:
            values[name] = name
        else:
            # A literal's last word, or a tuple's one text, or that in a tuple.
            first, last = get_args(kind)[0], get_args(kind)[-1]
            text = name if first is str else (name,)
            values[name] = (text,) if last is ... else last
    return msgspec.convert(values, Usage)


def test_every_field_of_a_usage_reaches_the_client_as_it_is() -> None:
    usage = filled()
    sent = msgspec.to_builtins(usage_body(usage))
    assert sent.pop("total_tokens") == usage.prompt_tokens + usage.completion_tokens
    # OpenAI's own place for it.
    sent.update(sent.pop("prompt_tokens_details"))
    assert sent == msgspec.to_builtins(usage)


def test_both_shapes_of_a_usage_have_the_same_types() -> None:
    inner, outer = get_type_hints(Usage), get_type_hints(UsageBody)
    shared = inner.keys() & outer.keys()
    assert inner.keys() - shared == {"cached_tokens"}
    assert {name: inner[name] for name in shared} == {name: outer[name] for name in shared}
