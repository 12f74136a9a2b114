"""The tokeniser host: renders and tokenises in a process of its own, because this can crash.

`python -m parhelion.models.host` is started by `tokeniser.TokeniserHost` and ends when its pipe
closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections import OrderedDict
from pathlib import Path

import msgspec

from parhelion.hosts import claim_pipe
from parhelion.models.frames import (
    MODELS_LOADED,
    Answer,
    Heard,
    IdsFrame,
    PiecesFrame,
    PingFrame,
    PongFrame,
    PrepareFrame,
    Question,
    ReadyFrame,
    RefusedFrame,
    VocabularyFrame,
)
from parhelion.models.lowlevel import llama
from parhelion.models.native import NativeVocabulary
from parhelion.models.template import ChatTemplate, TemplateRefused
from parhelion.words import ProblemCode

DATA_LIMIT_BYTES = 4 * 1024**3
"""A template that multiplies strings ends with MemoryError here, not with the whole machine."""


class Loaded:
    """A vocabulary and its template, ready for use."""

    def __init__(self, path: Path) -> None:
        self.vocabulary = NativeVocabulary(path)
        self._template: ChatTemplate | None = None

    @property
    def template(self) -> ChatTemplate:
        """The compiled template; TemplateRefused when the model has none, or a broken one."""
        words = self.vocabulary
        if words.template is None:
            raise TemplateRefused("this model has no chat template; use /v1/completions")
        if self._template is None:
            variables = {"bos_token": words.text(words.bos), "eos_token": words.text(words.eos)}
            self._template = ChatTemplate(words.template, variables, words.specials)
        return self._template


class Desk:
    """Answers one question at a time; keeps the vocabularies used last."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def answer(self, question: Question) -> Answer:
        """The answer to a question; whatever goes wrong becomes a refusal of this question."""
        try:
            model = self._load(question.digest, question.path)
        except (ValueError, OSError, MemoryError) as error:
            return _unavailable(question, error)
        if isinstance(question, PiecesFrame):
            return _vocabulary(question.number, model.vocabulary)
        try:
            return IdsFrame(question.number, _ids(model, question))
        except TemplateRefused as error:
            return RefusedFrame(question.number, ProblemCode.INVALID_REQUEST, str(error), "")
        except (ValueError, MemoryError) as error:
            code = ProblemCode.TOKENISER_FAILED
            return RefusedFrame(question.number, code, f"no ids came of this text: {error}", "")

    def _load(self, digest: str, path: str) -> Loaded:
        model = self._loaded.get(digest)
        if model is None:
            model = self._loaded[digest] = Loaded(Path(path))
        self._loaded.move_to_end(digest)
        while len(self._loaded) > MODELS_LOADED:
            _, oldest = self._loaded.popitem(last=False)
            oldest.vocabulary.close()
        return model


def _ids(model: Loaded, question: PrepareFrame) -> tuple[int, ...]:
    if question.messages is not None:
        return model.vocabulary.chat(model.template.render(question.messages))
    return model.vocabulary.raw(question.prompt or "")


def _unavailable(question: Question, error: Exception) -> RefusedFrame:
    """Not the asker's fault, whose model is in the catalogue: it can be served again later."""
    why = str(error) if Path(question.path).is_file() else "its file is not where it was"
    return RefusedFrame(
        question.number,
        ProblemCode.ARTEFACT_UNAVAILABLE,
        f"this model cannot be served now: {why}",
        "try again later, or ask another model: GET /v1/models lists them",
    )


def _vocabulary(number: int, words: NativeVocabulary) -> VocabularyFrame:
    return VocabularyFrame(number, words.pieces(), words.eog(), words.bos, words.eos, words.add_bos)


@llama.llama_log_callback
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    # 4 is an error in ggml's levels; the rest is hundreds of lines a vocabulary.
    if level == 4:
        sys.stderr.write(text.decode("utf-8", "replace"))


def _limit_resources() -> None:
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        # A crash is an ordinary event here: no core file for each.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT_BYTES, DATA_LIMIT_BYTES))


def main() -> None:
    """Answer frames until the parent closes the pipe."""
    pipe = claim_pipe()
    _limit_resources()
    llama.llama_log_set(_log, ctypes.c_void_p(0))
    decoder = msgspec.msgpack.Decoder(Heard)
    encoder = msgspec.msgpack.Encoder()
    desk = Desk()
    pipe.write(encoder.encode(ReadyFrame()))
    while (body := pipe.read()) is not None:
        heard = decoder.decode(body)
        pipe.write(
            encoder.encode(PongFrame() if isinstance(heard, PingFrame) else desk.answer(heard))
        )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
