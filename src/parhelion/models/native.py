"""A vocabulary of llama.cpp, through its low-level C API; used in the tokeniser host only.

Special tokens are looked for here, in trusted text alone, and what lies between two of them goes
to llama.cpp as one piece that parses none. So a piece border falls only where the reference has
one too: at a special token. Ids equal those of the whole text, and no merge is lost where a
template's text meets a content.

Some vocabularies type structural words (`<think>`) as user-defined, and llama.cpp parses these
anywhere. Where one that the template itself uses shows up in a user's content, the text is cut
after its first character, so that it stays text there.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from parhelion.models.lowlevel import llama
from parhelion.models.template import Span

PIECE_BYTES = 256
"""A first guess at a piece's length; longer ones are asked for again."""

_CONTROL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN


class NativeVocabulary:
    """One loaded vocabulary; `specials` maps the text of a control token to its id."""

    def __init__(self, path: Path) -> None:
        params = llama.llama_model_default_params()
        params.vocab_only = True
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
        vocab = llama.llama_model_get_vocab(model) if model else None
        if model is None or vocab is None:
            raise ValueError("llama.cpp cannot load the vocabulary")
        self._model, self._vocab = model, vocab
        self.size = llama.llama_vocab_n_tokens(self._vocab)
        self.bos = _id_or_none(llama.llama_vocab_bos(self._vocab))
        self.eos = _id_or_none(llama.llama_vocab_eos(self._vocab))
        self.add_bos = bool(llama.llama_vocab_get_add_bos(self._vocab)) and self.bos is not None
        self._attributes = [llama.llama_vocab_get_attr(self._vocab, id) for id in range(self.size)]
        self.specials = self._texts(_CONTROL)
        source = llama.llama_model_chat_template(self._model, None)
        self.template = source.decode("utf-8", "replace") if source else None
        structural = [
            text
            for text in self._texts(llama.LLAMA_TOKEN_ATTR_USER_DEFINED)
            if len(text) > 1 and self.template and text in self.template
        ]
        self._structural = _any_of(structural) if structural else None
        # Template text repeats from request to request, contents never come here.
        self._found = lru_cache(maxsize=1024)(self._find_specials)
        # So do the ids of what the template wrote alone (a default system prompt).
        self._written = lru_cache(maxsize=1024)(self._ids_between)

    def close(self) -> None:
        """Free the native memory; the object is of no use afterwards."""
        llama.llama_model_free(self._model)

    def text(self, id: int | None) -> str:
        """How the vocabulary writes this id ("" for None)."""
        if id is None:
            return ""
        raw = llama.llama_vocab_get_text(self._vocab, id)
        return raw.decode("utf-8", "replace") if raw else ""

    def pieces(self) -> tuple[bytes, ...]:
        """The bytes that each id shows; control tokens show none."""
        return tuple(self._piece(id) for id in range(self.size))

    def eog(self) -> tuple[int, ...]:
        """The ids that end a generation."""
        return tuple(i for i in range(self.size) if llama.llama_vocab_is_eog(self._vocab, i))

    def raw(self, text: str) -> tuple[int, ...]:
        """The ids of a raw prompt: special tokens parsed, one BOS where the model wants it."""
        return self._with_bos(self._tokenise(text, parse_special=True))

    def chat(self, spans: Sequence[Span]) -> tuple[int, ...]:
        """The ids of a rendered chat: special tokens parsed in trusted spans only."""
        ids: list[int] = []
        run: list[Span] = []
        strip = False
        # A single span may be a chat that the template rewrote: contents are never kept.
        keep = len(spans) > 1
        for piece in self._fragments(spans, self._found if keep else self._find_specials):
            if isinstance(piece, Span):
                run.append(piece)
                continue
            attributes = self._attributes[piece]
            ids += self._run(run, strip, bool(attributes & llama.LLAMA_TOKEN_ATTR_LSTRIP), keep)
            ids.append(piece)
            run, strip = [], bool(attributes & llama.LLAMA_TOKEN_ATTR_RSTRIP)
        ids += self._run(run, strip, False, keep)
        return self._with_bos(ids)

    def _fragments(
        self, spans: Sequence[Span], find: Callable[[str], tuple[tuple[int, int, int], ...]]
    ) -> Iterable[Span | int]:
        for span in spans:
            if not span.trusted:
                yield span
                continue
            at = 0
            for start, end, id in find(span.text):
                yield Span(span.text[at:start], trusted=True)
                yield id
                at = end
            yield Span(span.text[at:], trusted=True)

    def _find_specials(self, text: str) -> tuple[tuple[int, int, int], ...]:
        present = [special for special in self.specials if special in text]
        if not present:
            return ()
        return tuple(
            (match.start(), match.end(), self.specials[match.group()])
            for match in _any_of(present).finditer(text)
        )

    def _run(
        self, run: Sequence[Span], strip_left: bool, strip_right: bool, keep: bool
    ) -> list[int]:
        """The ids of what lies between two special tokens (which may eat blanks beside them)."""
        text = "".join([span.text for span in run])
        cuts = tuple(self._cuts(run, text))
        if keep and all([span.trusted for span in run]):
            return list(self._written(text, cuts, strip_left, strip_right))
        return self._ids_between(text, cuts, strip_left, strip_right)

    def _ids_between(
        self, text: str, cuts: tuple[int, ...], strip_left: bool, strip_right: bool
    ) -> list[int]:
        text = text.rstrip(" \t\n\v\f\r") if strip_right else text
        eaten = len(text) - len(text.lstrip(" \t\n\v\f\r")) if strip_left else 0
        ids: list[int] = []
        at = eaten
        for cut in (*cuts, len(text)):
            if cut > at:
                ids += self._tokenise(text[at:cut], parse_special=False)
                at = cut
        return ids

    def _cuts(self, run: Sequence[Span], text: str) -> list[int]:
        if self._structural is None:
            return []
        ours: list[tuple[int, int]] = []
        at = 0
        for span in run:
            if span.trusted:
                ours.append((at, at + len(span.text)))
            at += len(span.text)
        return [
            match.start() + 1
            for match in self._structural.finditer(text)
            if not any(start <= match.start() and match.end() <= end for start, end in ours)
        ]

    def _with_bos(self, ids: list[int]) -> tuple[int, ...]:
        """Exactly one BOS in front if the model wants one, and never two."""
        bos = self.bos
        while len(ids) > 1 and bos is not None and ids[0] == bos == ids[1]:
            del ids[0]
        if self.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return tuple(ids)

    def _tokenise(self, text: str, *, parse_special: bool) -> list[int]:
        raw = text.encode()
        if not raw:
            return []
        # One id a byte and a few for a prefix blank: no text makes more.
        room = len(raw) + 8
        ids = (llama.llama_token * room)()
        made = llama.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, parse_special)
        if made < 0:
            ids = (llama.llama_token * -made)()
            made = llama.llama_tokenize(
                self._vocab, raw, len(raw), ids, -made, False, parse_special
            )
        if made < 0:
            raise ValueError("llama.cpp gives no ids")
        return ids[:made]

    def _piece(self, id: int) -> bytes:
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        made = llama.llama_token_to_piece(self._vocab, id, buffer, PIECE_BYTES, 0, False)
        if made < 0:
            buffer = ctypes.create_string_buffer(-made)
            made = llama.llama_token_to_piece(self._vocab, id, buffer, -made, 0, False)
        return buffer.raw[: max(0, made)]

    def _texts(self, attributes: int) -> dict[str, int]:
        found = [id for id, has in enumerate(self._attributes) if has & attributes]
        return {text: id for id in found if (text := self.text(id))}


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    # The longest first, as llama.cpp looks for them.
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _id_or_none(id: Any) -> int | None:
    return int(id) if id >= 0 else None
