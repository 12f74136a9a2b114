"""The table of bytes gives back every text, whatever its characters."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.models.native import NativeVocabulary
from parhelion.models.template import Span


@pytest.fixture(scope="session")
def words(smollm2: Path) -> NativeVocabulary:
    return NativeVocabulary(smollm2)


@pytest.fixture(scope="session")
def pieces(words: NativeVocabulary) -> tuple[bytes, ...]:
    return words.pieces()


@pytest.fixture(scope="session")
def whole(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> NativeVocabulary:
    """A vocabulary that has a piece for every byte."""
    return NativeVocabulary(tiny.write_bpe(tmp_path_factory.mktemp("whole") / "tiny.gguf"))


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_pieces_of_a_text_joined_are_its_bytes(whole: NativeVocabulary, text: str) -> None:
    pieces = whole.pieces()
    ids = whole.chat([Span(text, trusted=False)])
    assert b"".join(pieces[id] for id in ids) == text.encode()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_smollm2_loses_only_the_bytes_that_it_has_no_piece_for(
    words: NativeVocabulary, pieces: tuple[bytes, ...], text: str
) -> None:
    # It was trained without some control characters and lead bytes; the reference drops them too.
    writable = {piece[0] for piece in pieces if len(piece) == 1}
    ids = words.chat([Span(text, trusted=False)])
    expected = bytes(byte for byte in text.encode() if byte in writable)
    assert b"".join(pieces[id] for id in ids) == expected
    assert len(writable) >= 224


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "\n", " a", "é", "🦊", "12"])))
def test_a_text_full_of_special_words_is_given_back_whole(
    words: NativeVocabulary, pieces: tuple[bytes, ...], parts: list[str]
) -> None:
    ids = words.chat([Span("".join(parts), trusted=False)])
    assert b"".join(pieces[id] for id in ids) == "".join(parts).encode()


def test_control_tokens_show_no_bytes(words: NativeVocabulary, pieces: tuple[bytes, ...]) -> None:
    assert [pieces[id] for id in words.specials.values()] == [b""] * len(words.specials)
    assert all(pieces[id] == b"" for id in words.eog())


def test_every_byte_has_its_piece(whole: NativeVocabulary) -> None:
    assert whole.pieces()[:256] == tuple(bytes([byte]) for byte in range(256))
    assert whole.pieces()[256:] == (b"!!", b"", b"", b"", b"<think>")
