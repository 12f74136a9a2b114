"""A vocabulary is a table of bytes."""

from __future__ import annotations

from parhelion.models import Vocabulary

WORDS = Vocabulary(pieces=(b"", b"a", b"\xc3", b"\xa9", b"end"), eog=frozenset({4}), digest="d")


def test_an_id_without_bytes_and_an_end_of_text_are_silent() -> None:
    assert [WORDS.is_silent(id) for id in range(5)] == [True, False, False, False, True]


def test_a_character_may_come_in_parts() -> None:
    assert WORDS.show((1, 2, 3)).decode() == "aé"
