"""Our fast canonical form is RFC 8785's, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parhelion.proof.canonical import dumps
from parhelion.words import Problem

NAMES = st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
@example({"all": "".join(map(chr, range(0x300))), "end": "\u2028\u2029\ufeff\uffff\U0010ffff"})
@example({"b": 1, "a": 2, "A": 3, "_": 4, "aa": 5, "": 6})
def test_it_is_the_canonical_form(tree: dict[str, Any]) -> None:
    assert dumps(tree) == rfc8785.dumps(tree)


@pytest.mark.parametrize(
    "number",
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.1,
        1e-6,
        1e-7,
        1.5e-9,
        1e15,
        1e16,
        2.0**53,
        1e20,
        1e21,
        1.25e300,
        5e-324,
        123456789012345.6,
        0.000001234,
        -1e22,
    ],
)
def test_numbers_are_written_as_ecmascript_does(number: float) -> None:
    assert dumps({"n": number}) == rfc8785.dumps({"n": number})


@settings(max_examples=1000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_is(number: float) -> None:
    assert dumps({"n": number}) == rfc8785.dumps({"n": number})


@pytest.mark.parametrize(
    "value", [2**53, -(2**53), 2**64, 10**30, float("nan"), float("inf"), "\ud800", ["\udfff"]]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(Problem):
        dumps({"v": value})
