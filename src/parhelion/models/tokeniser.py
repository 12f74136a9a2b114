"""The parent's side of the tokeniser host: asks it, outlives it, and knows whom to blame.

The host works strictly in order, so at a crash the oldest unanswered request that it was sent is
the suspect. It is tried once more, behind all others that wait; at its second crash it alone gets a
400, and so does the same text for an hour, unasked. Everybody else only waits for the restart.
A host that stood still before it looked at a question is nobody's fault: a ping tells.

What the host has not been sent waits here, and `turns` says whose it is: a large prompt takes 50 ms
and more, and many of one account's must not stand before another's small one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from parhelion.hosts import PING_EVERY_S, Child, ChildGone, Pulse, backoff_s
from parhelion.models import limits
from parhelion.models.catalogue import Model
from parhelion.models.convicts import Convicts
from parhelion.models.frames import (
    MODELS_LOADED,
    Answer,
    IdsFrame,
    PiecesFrame,
    PingFrame,
    PongFrame,
    PrepareFrame,
    Question,
    ReadyFrame,
    RefusedFrame,
    Told,
    VocabularyFrame,
)
from parhelion.models.turns import Turns, busy
from parhelion.models.vocabulary import Vocabulary
from parhelion.words import Ask, Problem, ProblemCode

WORK_LIMIT_S = 5.0
"""One prompt's own time in the host: 128k tokens take 0.2 s, so this is a text that never ends."""

LOAD_LIMIT_S = 30.0
"""Added while a vocabulary may still have to be read from a cold disk."""

WAIT_LIMIT_S = 60.0
"""Waiting and work together; then the caller is told to come back."""

START_LIMIT_S = 30.0
"""Importing the library from a cold disk; a host that needs longer is not coming."""

AHEAD_LIMIT_BYTES = 32 * 1024
"""What the host is sent at once: small prompts keep it busy, a large one goes alone."""

QUIET_S = 0.25
"""Not heard for so long, a host without work is asked for a sign of life before its next question:
it says whose silence follows. Under load nothing is asked."""

LATE_S = 1.0
"""A look that comes later than this was held up itself: what the host said meanwhile waits to be
read, and the time was not the question's."""

CRASHES_PER_REQUEST = 2
"""The first may be bad luck (someone killed the host), the second is the request."""

log = logging.getLogger("parhelion.models")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A question that has no answer yet."""

    digest: str
    body: bytes
    line: str
    due: int
    answer: asyncio.Future[Answer]
    crashes: int = field(default=0)


class TokeniserHost:
    """One supervised host for all models; `models` are loaded at the start, others when asked."""

    def __init__(
        self, models: Sequence[Model] = (), jitter: Callable[[], float] = random.random
    ) -> None:
        self._first_models = tuple(models)
        self._jitter = jitter
        self._child: Child | None = None
        self._ready = asyncio.Event()
        self._stopped = True
        self._failures = 0
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._turns = Turns()
        # Those of them that the host has, in the order of sending, which is that of answering.
        self._sent: dict[int, _Waiting] = {}
        self._sent_bytes = 0
        self._head_since_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._pulse = Pulse()
        self._beat: asyncio.TimerHandle | None = None
        self._heard_s = 0.0
        self._too_slow = False
        self._stood_still = False
        self._warm: set[str] = set()
        self._first_start: asyncio.Future[None] | None = None
        self._restart: asyncio.Task[None] | None = None
        self._vocabularies: dict[str, Vocabulary] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Told)
        self._ping = self._encoder.encode(PingFrame())
        self._questions = msgspec.msgpack.Decoder(Question)
        self._convicts = Convicts(time.monotonic)

    @property
    def pid(self) -> int | None:
        """The host's process id; None while there is none."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Start the host and load the first models; a model that cannot be loaded is logged.

        Problem BUILD_FAILED when the host itself does not come up.
        """
        self._stopped = False
        self._first_start = asyncio.get_running_loop().create_future()
        try:
            await self._launch()
            async with asyncio.timeout(START_LIMIT_S):
                await self._first_start
        except (OSError, TimeoutError) as error:
            await self.stop()
            raise _not_started(str(error) or "it took too long") from error
        except Problem:
            await self.stop()
            raise
        for model in self._first_models:
            try:
                await self.vocabulary(model)
            except Problem as problem:
                hint = "put its file back, or: parhelion models add FILE, models remove ID"
                told = {"model": model.card.id, "why": problem, "hint": hint}
                log.error("vocabulary not loaded", extra=told)

    async def stop(self) -> None:
        """End the host; whoever still waits gets DRAINING."""
        self._stopped = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        self._stop_timers()
        for number in tuple(self._waiting):
            self._refuse(number, Problem(ProblemCode.DRAINING, "the tokeniser is stopping"))
        if self._child is not None:
            await self._child.stop()
        self._child = None

    async def prepare(self, model: Model, ask: Ask, line: str = "") -> tuple[int, ...]:
        """The prompt's ids, at least one and fewer than the context; a Problem otherwise.

        `line` is whose turn it takes (see `turns`).
        """
        card = model.card
        if ask.prompt is not None and not isinstance(ask.prompt, str):
            return limits.check_given_ids(ask, card, ask.prompt)
        messages = limits.turns(ask)
        limits.check_size(ask, card)
        number = self._next()
        prompt = ask.prompt if messages is None else None
        frame = PrepareFrame(number, card.digest, model.path, messages, prompt)
        try:
            if self._convicts:  # Nearly never: then not even a hash is made.
                self._refuse_convicted(frame)
            answer = await self._ask(number, card.digest, self._encoder.encode(frame), line)
        except Problem as problem:
            if problem.code in (ProblemCode.INVALID_REQUEST, ProblemCode.TOKENISER_FAILED):
                problem.param = limits.field(ask)
            raise
        assert isinstance(answer, IdsFrame)
        return limits.check_ids(ask, card, answer.ids)

    async def vocabulary(self, model: Model) -> Vocabulary:
        """The model's vocabulary; kept once for all models that share it."""
        digest = model.card.vocabulary_digest
        known = self._vocabularies.get(digest)
        if known is not None:
            return known
        number = self._next()
        frame = PiecesFrame(number, model.card.digest, model.path)
        answer = await self._ask(number, model.card.digest, self._encoder.encode(frame), "")
        assert isinstance(answer, VocabularyFrame)
        return self._vocabularies.setdefault(
            digest,
            Vocabulary(
                pieces=answer.pieces,
                eog=frozenset(answer.eog),
                digest=digest,
                bos=answer.bos,
                eos=answer.eos,
                add_bos=answer.add_bos,
            ),
        )

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _ask(self, number: int, digest: str, body: bytes, line: str) -> Answer:
        if self._stopped:
            raise Problem(ProblemCode.DRAINING, "the tokeniser is not running")
        due = self._turns.join(number, line, len(body))
        loop = asyncio.get_running_loop()
        waiting = _Waiting(digest, body, line, due, loop.create_future())
        self._waiting[number] = waiting
        self._send_next()
        timer = loop.call_later(WAIT_LIMIT_S, _give_up, waiting.answer)
        try:
            answer = await waiting.answer
        finally:
            timer.cancel()
        if isinstance(answer, RefusedFrame):
            if answer.code == ProblemCode.ARTEFACT_UNAVAILABLE:
                hint = "put its file back, or: parhelion models add FILE; models remove ID"
                log.warning("%s", answer.message, extra={"digest": digest, "hint": hint})
            raise Problem(ProblemCode(answer.code), answer.message, hint=answer.hint)
        return answer

    def _send_next(self) -> None:
        """Send the host what is next in turn, as much as it may have at once."""
        if self._child is None or not self._ready.is_set():
            return  # It goes out when the host is ready.
        while (number := self._turns.first()) is not None:
            waiting = self._waiting.get(number)
            if waiting is None or waiting.answer.done():
                self._turns.next()
                self._take(number)  # Its caller left, or was told to, while it waited.
                continue
            if self._sent and self._sent_bytes + len(waiting.body) > AHEAD_LIMIT_BYTES:
                return
            now_s = asyncio.get_running_loop().time()
            try:
                if not self._sent and now_s - self._heard_s > QUIET_S and self._pulse.ask():
                    self._child.send(self._ping)
                self._child.send(waiting.body)
            except ChildGone:
                return  # Its exit is on the way here, and sends everything again.
            self._turns.next()
            if not self._sent:
                self._head_since_s = now_s
            self._sent[number] = waiting
            self._sent_bytes += len(waiting.body)
        if self._watch is None and self._sent:
            self._watch_head(asyncio.get_running_loop())

    def _watch_head(self, loop: asyncio.AbstractEventLoop, due_s: float = math.inf) -> None:
        """Look again when the oldest question's time is up; no timer while nothing waits."""
        self._watch = None
        head = next(iter(self._sent.values()), None)
        if head is None or self._child is None:
            return
        late_s = loop.time() - due_s
        if self._pulse.owes:
            # The host has not come to it yet: whether it lives is the pulse's to judge.
            self._head_since_s = loop.time()
        elif late_s > LATE_S:
            self._head_since_s += late_s + LATE_S
        certainly_loaded = head.digest in self._warm and len(self._warm) <= MODELS_LOADED
        limit_s = WORK_LIMIT_S + (0.0 if certainly_loaded else LOAD_LIMIT_S)
        due_s = self._head_since_s + limit_s
        if due_s > loop.time():
            self._watch = loop.call_at(due_s, self._watch_head, loop, due_s)
            return
        self._too_slow = True
        self._child.kill()

    def _take_pulse(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask a host without work whether it lives; one that does not answer is ended."""
        self._beat = loop.call_later(PING_EVERY_S, self._take_pulse, loop)
        need = self._pulse.look(loop.time(), not self._sent)
        if need == "fine" or self._child is None:
            return
        if need == "dead":
            silent_s = self._pulse.silent_s
            log.warning("tokeniser host stands still", extra={"silent_s": round(silent_s, 1)})
            self._stood_still = True
            self._child.kill()
            return
        with contextlib.suppress(ChildGone):  # Its exit is on the way here.
            self._child.send(self._ping)

    def _stop_timers(self) -> None:
        for timer in (self._watch, self._beat):
            if timer is not None:
                timer.cancel()
        self._watch = self._beat = None

    def _on_frame(self, body: bytes) -> None:
        answer = self._decoder.decode(body)
        self._heard_s = self._head_since_s = asyncio.get_running_loop().time()
        self._pulse.heard()
        if isinstance(answer, ReadyFrame):
            self._on_ready()
            return
        if isinstance(answer, PongFrame):
            return
        self._failures = 0
        waiting = self._take(answer.number)
        if waiting is not None and not isinstance(answer, RefusedFrame):
            self._note_warm(waiting.digest)
        self._send_next()
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(answer)

    def _note_warm(self, digest: str) -> None:
        if digest not in self._warm:
            self._warm.add(digest)
            if self._watch is not None:
                # Its time was that of a load: what follows is given less.
                self._watch.cancel()
                self._watch = None

    def _on_ready(self) -> None:
        self._ready.set()
        self._stop_timers()
        loop = asyncio.get_running_loop()
        self._pulse = Pulse(loop.time())
        self._beat = loop.call_later(PING_EVERY_S, self._take_pulse, loop)
        if self._first_start is not None and not self._first_start.done():
            self._first_start.set_result(None)
        self._send_next()

    def _take(self, number: int) -> _Waiting | None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._turns.leave(waiting.line, len(waiting.body))
            if self._sent.pop(number, None) is not None:
                self._sent_bytes -= len(waiting.body)
        return waiting

    def _refuse(self, number: int, problem: Problem) -> None:
        waiting = self._take(number)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_exception(problem)

    def _on_exit(self, gone: ChildGone) -> None:
        was_ready = self._ready.is_set()
        self._ready.clear()
        self._child = None
        self._warm.clear()
        self._failures += 1
        self._stop_timers()
        if self._stopped:
            return
        if self._first_start is not None and not self._first_start.done():
            self._first_start.set_exception(_not_started(gone.last_words[-300:]))
            return
        log.warning(
            "tokeniser host ended",
            extra={"returncode": gone.returncode, "waiting": len(self._waiting)},
        )
        if was_ready:
            self._blame_oldest()
        for number, waiting in self._sent.items():
            self._turns.again(number, waiting.due)
        self._sent, self._sent_bytes = {}, 0
        self._restart = asyncio.create_task(self._start_again(), name="tokeniser-restart")

    def _blame_oldest(self) -> None:
        too_slow, self._too_slow = self._too_slow, False
        stood_still, self._stood_still = self._stood_still, False
        number = next(iter(self._sent), None)
        if number is None or stood_still:
            return
        suspect = self._sent[number]
        suspect.crashes += 1
        if too_slow or suspect.crashes >= CRASHES_PER_REQUEST:
            why = "takes too long to tokenise" if too_slow else "crashes this model's tokeniser"
            question = self._questions.decode(suspect.body)
            if isinstance(question, PrepareFrame):
                self._convicts.convict(self._text_of(question), f"this text {why}")
            self._refuse(number, Problem(ProblemCode.TOKENISER_FAILED, f"this text {why}"))
            return
        # Behind everyone else, so that a second crash makes nobody wait twice.
        suspect.due = self._turns.last_due()

    def _refuse_convicted(self, frame: PrepareFrame) -> None:
        why = self._convicts.verdict(self._text_of(frame))
        if why is not None:
            raise Problem(ProblemCode.TOKENISER_FAILED, why)

    def _text_of(self, frame: PrepareFrame) -> bytes:
        """All of a question but its number: what makes it the same text for the same model."""
        return self._encoder.encode(msgspec.structs.replace(frame, number=0))

    async def _start_again(self) -> None:
        while not self._stopped:
            if self._failures > 1:
                # The first restart is at once: one crash must not be felt.
                await asyncio.sleep(backoff_s(self._failures - 2, self._jitter()))
            try:
                await self._launch()
                return
            except OSError as error:
                self._failures += 1
                log.error("tokeniser host does not start", extra={"why": str(error)})

    async def _launch(self) -> None:
        self._child = await Child.start(
            "tokeniser",
            "parhelion.models.host",
            (),
            on_frame=self._on_frame,
            on_exit=self._on_exit,
            # Without this an abort starts a debugger on the dying process first.
            env={"GGML_NO_BACKTRACE": "1"},
        )
        # Until it is ready nothing else judges it: one that never says so must not be waited for.
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(START_LIMIT_S, self._child.kill)


def _not_started(why: str) -> Problem:
    return Problem(
        ProblemCode.BUILD_FAILED,
        f"the tokeniser host does not start: {why}",
        hint="parhelion doctor tests the native library",
    )


def _give_up(answer: asyncio.Future[Answer]) -> None:
    if not answer.done():
        answer.set_exception(busy("the tokeniser did not get to this prompt in time"))
