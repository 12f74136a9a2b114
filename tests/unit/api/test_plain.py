"""What is wrong with a value is said in people's words: no type of a program, no pattern."""

from __future__ import annotations

import re
from typing import Any

import pytest

from parhelion.api.admin import Asset, FilePath, Micro, ModelId, Name
from parhelion.api.bodies import TokenKey
from parhelion.api.plain import plain

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": "many"}, "expected an integer, not a text."),
        ({"max_tokens": 8.5}, "expected an integer, not a number with a fraction."),
        ({"max_tokens": 0}, "it must be at least 1."),
        ({"max_tokens": 10**30}, "it must be at most 1048576."),
        ({"temperature": 3}, "it must be at most 2."),
        ({"temperature": "hot"}, "expected a number, not a text."),
        ({"stream": 1}, "expected true or false, not a number."),
        ({"stop": 7}, "expected a text or an array, not a number."),
        ({"stop": ["a"] * 5}, "it must have at most 4 items."),
        ({"stop": [""]}, "it must not be empty."),
        ({"model": "x" * 300}, "it must have at most 256 characters."),
        ({"logit_bias": {"a": 1}}, 'expected token ids in digits, such as "1734".'),
        ({"stream_options": 3}, "expected an object, not a number."),
        ({"messages": []}, "it must not be empty."),
        (
            {"messages": [{"role": "robot", "content": "Hi"}]},
            "'robot' is none of the values that it takes: system, developer, user, assistant.",
        ),
    ],
)
async def test_a_wrong_value_is_told_in_words(
    shared_pool: Any, fields: dict[str, Any], said: str
) -> None:
    body = {"messages": MESSAGES, **fields}
    response = await shared_pool.call("POST", "/v1/chat/completions", body)
    assert response.status == 400
    assert response.error["message"].endswith(f": {said}")


@pytest.mark.parametrize("shape", [Asset, FilePath, Micro, ModelId, Name, TokenKey])
def test_every_pattern_has_words(shape: Any) -> None:
    pattern = shape.__metadata__[0].pattern
    said = plain(f"Expected `str` matching regex {pattern!r}")
    assert said.startswith("expected ") and "another form" not in said
    assert not re.search(r"[\^$`\\\\]", said), said


async def test_a_body_that_is_no_object_is_told_so(shared_pool: Any) -> None:
    response = await shared_pool.call("POST", "/v1/chat/completions", [1])
    assert response.error["message"] == (
        "The body has the wrong shape: expected an object, not an array."
    )
