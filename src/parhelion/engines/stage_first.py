"""The first stage: it has the ids, and decides what goes round the ring.

Decoding sequences go in micro-batches, as many under way as there are stages, so that each has one
to work on, or as many as pay better by what steps and flights took (see micro_batches). Prompts
ride beside them in chunks that the measured pace allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from parhelion.engines.hidden import Entry, Frame, encode_hidden
from parhelion.engines.micro_batches import Cut, MicroBatches
from parhelion.engines.plan import Prefill, prefill_budget, share_prefill
from parhelion.engines.stage_loop import LEASE_S, StageLoop
from parhelion.engines.stage_work import Flight, Piece, StageWork
from parhelion.words import ProblemCode, Step

RENEW_S = LEASE_S / 3
"""A prompt that waits behind others gets an id now and then, which renews its lease everywhere."""

CHUNKS_A_STAGE = 2
"""Chunks of prompts under way for each stage while nothing decodes: one at work, one on the way."""


class FirstLoop(StageLoop):
    """Turns ids into micro-batches, and takes the ids that come back."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._flights: list[Flight] = []
        self._turns = itertools.count(1)
        self._micro_batches = MicroBatches(self._spec.stages)

    def go(self, key: tuple[str, int], reused: int) -> None:
        """Begin behind the first `reused` ids, which every stage holds."""
        work = self._works.get(key)
        if work is None or work.ended:
            return
        if work.begun:
            self.fail(work, ProblemCode.CONFLICT, "it has begun already")
        elif not 0 <= reused <= work.holds_of_prefix() or not self._memory.cut(work, reused):
            self.fail(work, ProblemCode.INVALID_REQUEST, f"{reused} ids of it are not held")
        else:
            work.resume(self._clock_s())
            work.turn = next(self._turns)

    def _begin(self, work: StageWork) -> None:
        """It waits for `go`."""

    # --- what a step carries ------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Somebody can go on, and there is room on the ring."""
        going = self._going()
        return bool(self._streams(going) or self._prompts(going))

    def _going(self) -> list[StageWork]:
        return [work for work in self._works.values() if work.begun and not work.ended]

    def _cut(self, going: list[StageWork]) -> Cut:
        """How many decoding sequences one micro-batch may have, and how many of them there are."""
        active = sum(work.remaining <= 1 for work in going)
        return self._micro_batches.cut(active, self._clock_s(), may_try=active == len(going))

    def _streams(self, going: list[StageWork]) -> list[StageWork]:
        """Whose next id is known, as many as may go now, first come first served."""
        cut = self._cut(going)
        if sum(flight.out for flight in self._flights) >= cut.flights:
            return []
        able = sorted((one for one in going if one.remaining == 1), key=lambda one: one.turn)
        return able[: cut.rows]

    def _prompts(self, going: list[StageWork]) -> list[StageWork]:
        """Whose prompts may go on; beside decoding sequences fewer chunks stand in their way."""
        decodes = any(one.remaining <= 1 for one in going)
        limit = self._spec.stages * (1 if decodes else CHUNKS_A_STAGE)
        if sum(bool(flight.prefilling) for flight in self._flights) >= limit:
            return []
        return [one for one in going if one.remaining > 1]

    def _choose(self) -> list[Piece]:
        began_s, going = self._clock_s(), self._going()
        streams, prompts = self._streams(going), self._prompts(going)
        beside = len(streams) or self._cut(going).rows
        budget = prefill_budget(
            self.meter.pace(beside), beside, self._limits.step_budget_ms, self._batch.capacity
        )
        shares = self._shares(prompts, budget)
        self._note_rounds(going, streams, began_s)
        flight = Flight(
            {work.key: work.fed + 1 for work in streams},
            {work.key: work.fed + count for work, count in shares},
            began_s,
        )
        self._flights.append(flight)
        return [
            Piece(work, count, wants=count == work.remaining)
            for work, count in (*((work, 1) for work in streams), *shares)
        ]

    def _note_rounds(self, going: list[StageWork], streams: list[StageWork], now_s: float) -> None:
        """How long it is since these sequences' last step, where nothing has changed since."""
        active = sum(work.remaining <= 1 for work in going)
        rows = self._cut(going).rows
        for work in streams:
            if work.left == (active, rows):
                took_ms = (now_s - work.left_s) * 1e3
                self._micro_batches.went_round(active, rows, took_ms, now_s)
            # Beside a prompt a round is another one.
            work.left = (active, rows) if active == len(going) else None
            work.left_s = now_s

    def _shares(self, prompts: list[StageWork], budget: int) -> list[tuple[StageWork, int]]:
        now_s = self._clock_s()
        stale = [work for work in prompts if now_s - work.stepped_s > RENEW_S]
        waiting = [Prefill(work.seq, work.remaining, work.capacity) for work in prompts]
        shares = dict(share_prefill(waiting, max(1, budget - len(stale))))
        for work in stale:
            shares.setdefault(work.seq, 1)
        return [(work, shares[work.seq]) for work in prompts if work.seq in shares]

    def _add(self, piece: Piece) -> None:
        work, generation = piece.work, piece.work.generation
        assert generation is not None, "the first stage gets ids"
        ids = generation.ids[work.fed : work.fed + piece.count]
        self._batch.add(work.seq, work.fed, ids, 0)

    def _after(self, pieces: list[Piece], entries: list[Entry]) -> tuple[bytes, list[Step]]:
        frame = encode_hidden(entries, self._decoder.hidden(self._batch.size), self._spec.wire)
        flight = self._flights[-1]
        if flight.bare:
            now_s = self._clock_s()
            self._micro_batches.stepped(flight.streams, (now_s - flight.left_s) * 1e3, now_s)
        return frame, list(_progress(pieces))

    # --- what comes back ----------------------------------------------------------------------

    def _hear(self, frame: Frame) -> None:
        at = 0
        for entry in frame.entries:
            ids = frame.ids[at : at + entry.rows].tolist()
            at += entry.rows
            work = self._works.get(entry.key)
            if work is not None and not work.ended:
                self._take(work, entry, ids)

    def _take(self, work: StageWork, entry: Entry, ids: list[int]) -> None:
        generation = work.generation
        assert generation is not None, "the first stage gets ids"
        if not work.begun or entry.start > work.fed or len(ids) > 1:
            self.fail(work, ProblemCode.ENGINE_FAILED, "the last stage is ahead of the first")
            return
        now_s = self._clock_s()
        for flight in self._land(work, entry.start):
            if flight.bare:
                self._micro_batches.flew(flight.streams, (now_s - flight.left_s) * 1e3, now_s)
        if ids and (entry.start != generation.size or not 0 <= ids[0] < self._limits.n_vocab):
            self.fail(work, ProblemCode.ENGINE_FAILED, "the last stage chose what cannot follow")
            return
        finish = generation.append(ids[0]).finish if ids else None
        work.turn = next(self._turns)
        work.ended = entry.flag or finish is not None

    def _land(self, work: StageWork, position: int) -> list[Flight]:
        """It is back so far; the micro-batches of which nothing is under way any more."""
        for flight in self._flights:
            flight.land(work.key, position)
        landed = [one for one in self._flights if one.landed]
        self._flights = [one for one in self._flights if not one.landed]
        return landed

    def _leave(self, work: StageWork) -> None:
        # Nothing of it will be waited for.
        self._land(work, work.capacity)
        super()._leave(work)


def _progress(pieces: Iterable[Piece]) -> Iterable[Step]:
    for piece in pieces:
        generation = piece.work.generation
        assert generation is not None, "the first stage gets ids"
        if generation.fed <= generation.wanted_from:
            yield generation.step(generation.made)
