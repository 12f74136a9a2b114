"""The Range header as RFC 9110 has it, and as strangers send it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.api.ranges import NotThere, Span, asked_span

ETAG = b'"abc"'


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (None, None),
        (b"bytes=0-9", Span(0, 10)),
        (b"bytes=0-0", Span(0, 1)),
        (b"bytes=10-", Span(10, 100)),
        (b"bytes=99-99", Span(99, 100)),
        (b"bytes=0-99999", Span(0, 100)),
        (b"bytes=-10", Span(90, 100)),
        (b"bytes=-1000", Span(0, 100)),
        (b"BYTES=5-6", Span(5, 7)),
        (b"bytes=007-008", Span(7, 9)),
        (b"bytes=5-" + b"9" * 60_000, Span(5, 100)),
        (b"bytes=-" + b"9" * 60_000, Span(0, 100)),
        # Not honoured, which the standard answers with the whole.
        (b"bytes=9-5", None),
        (b"bytes=" + b"9" * 5000 + b"-" + b"9" * 4999, None),
        (b"bytes=0-1,3-4", None),
        (b"bytes=-", None),
        (b"bytes=", None),
        (b"bytes= 0-1", None),
        (b"bytes=0x1-2", None),
        (b"bytes=-1-2", None),
        (b"items=0-1", None),
        (b"\xff", None),
    ],
)
def test_a_range_is_honoured_only_as_it_is_written(
    field: bytes | None, expected: Span | None
) -> None:
    assert asked_span(field, None, ETAG, 100) == expected


@pytest.mark.parametrize(
    "field", [b"bytes=100-", b"bytes=100-200", b"bytes=-0", b"bytes=" + b"9" * 60_000 + b"-"]
)
def test_a_range_behind_the_end_is_not_there(field: bytes) -> None:
    with pytest.raises(NotThere):
        asked_span(field, None, ETAG, 100)


@pytest.mark.parametrize(
    ("if_range", "honoured"),
    [(ETAG, True), (b' "abc" ', True), (b'"abd"', False), (b'W/"abc"', False), (b"abc", False)],
)
def test_another_versions_range_is_the_whole(if_range: bytes, honoured: bool) -> None:
    assert (asked_span(b"bytes=1-2", if_range, ETAG, 100) is not None) is honoured
    # The condition comes first: of another version nothing is out of range.
    if not honoured:
        assert asked_span(b"bytes=1000-", if_range, ETAG, 100) is None


@given(st.binary(max_size=40), st.integers(0, 1000))
def test_whatever_is_sent_the_span_lies_in_the_file(field: bytes, size: int) -> None:
    try:
        span = asked_span(b"bytes=" + field, None, ETAG, size)
    except NotThere:
        return
    assert span is None or 0 <= span.start < span.end <= size
