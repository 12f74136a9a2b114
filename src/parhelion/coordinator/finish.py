"""When an answer would be finished at a node, as an estimate from what was measured; pure.

Finish = prefill of what is not cached, behind the prompts before it, and the expected output at the
speed that the node has with one stream more; or, where all slots are busy, the wait for one first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from parhelion.coordinator.breaker import Phase, Record
from parhelion.coordinator.speed import Speed

LEFT_SHARE = 0.25
"""Of an expected answer is to come, whatever is out already: some are longer than the mean."""

GAIN = 0.7
"""To wait for another node must finish 30 % sooner: estimates are rough, a free slot is not, and
who waits takes the faster slot from somebody (at 10 % the mean finish grows, p95 hardly falls)."""


class Desk(Protocol):
    """What a node has for one model, as far as an estimate reads it."""

    @property
    def slots(self) -> int: ...
    @property
    def slots_busy(self) -> int: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def ids_out(self) -> int: ...
    @property
    def kept(self) -> float: ...
    @property
    def speed(self) -> Speed: ...
    @property
    def record(self) -> Record: ...


class Server(Protocol):
    """A node as far as an estimate reads it."""

    @property
    def peer(self) -> str: ...
    @property
    def rooms(self) -> Mapping[str, Desk]: ...
    @property
    def slots_busy(self) -> int: ...


class Work(Protocol):
    """A job to estimate."""

    @property
    def digest(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cached(self) -> Mapping[str, int]: ...


def expected_rest(expected: int, ids_out: int) -> int:
    """Ids to expect of an answer beyond those that are out; at least one."""
    return max(1, math.ceil(LEFT_SHARE * expected), expected - ids_out)


def finishes_s(free: Sequence[Server], work: Work) -> list[float]:
    """Seconds until the work would be finished at each of these nodes with a free slot.

    A node that is not measured counts as fast as the best of these while it is idle, so it soon
    gets a job that measures it; and as slow as the worst while it has that job, so it gets no
    second one before its turn. Where none is measured, the busy share decides.
    """
    digest, output, prompt = work.digest, work.output_tokens, work.prompt_tokens
    rooms = [node.rooms[digest] for node in free]
    steps = [room.speed.step_s(node.slots_busy + 1) for node, room in zip(free, rooms, strict=True)]
    known = [step_s for step_s in steps if step_s is not None]
    if not known:
        return [(1 + room.slots_busy / room.slots) * room.record.caution for room in rooms]
    best_s, worst_s = min(known), max(known)
    rates = [rate for room in rooms if (rate := room.speed.prefill_tokens_per_s) is not None]
    best_rate = max(rates, default=None)
    cached = work.cached
    finishes: list[float] = []
    for node, room, step_s in zip(free, rooms, steps, strict=True):
        if step_s is None:
            step_s = worst_s if node.slots_busy else best_s
        finish_s = output * step_s
        rate = room.speed.prefill_tokens_per_s or best_rate
        if rate is not None:
            held = cached.get(node.peer, 0) * room.kept if cached else 0
            finish_s += (room.prefill_tokens + prompt - held) / rate
        finishes.append(finish_s * room.record.caution)
    return finishes


def finish_s(node: Server, work: Work) -> float | None:
    """Seconds until the work would be finished at this node, from the next free slot on.

    None: nothing of its decode is measured.
    """
    room = node.rooms[work.digest]
    streams = node.slots_busy if room.slots_busy >= room.slots else node.slots_busy + 1
    step_s = room.speed.step_s(streams)
    if step_s is None:
        return None
    finish_s = work.output_tokens * step_s
    rate = room.speed.prefill_tokens_per_s
    if rate is not None:
        held = work.cached.get(node.peer, 0) * room.kept
        finish_s += (room.prefill_tokens + work.prompt_tokens - held) / rate
    return finish_s * room.record.caution


def sooner_elsewhere(node: Server, others: Iterable[Server], work: Work) -> int:
    """How many such jobs could wait for others' slots, and still finish sooner than this one here.

    `node` has a free slot, the `others` are able but have none. Who has fewer than so many before
    it in the queue does better to wait. 0 where `node` is not measured: then it is time to.
    """
    here_s = finish_s(node, work)
    if here_s is None:
        return 0
    starts = 0
    for other in others:
        room = other.rooms[work.digest]
        if room.record.phase is not Phase.CLOSED:
            continue
        service_s = finish_s(other, work)
        if service_s is not None and service_s < GAIN * here_s:
            starts += _starts(room, work.output_tokens, service_s, GAIN * here_s - service_s)
    return starts


def _starts(room: Desk, expected: int, service_s: float, within_s: float) -> int:
    """Slots of a busy room that come free within a time.

    Its answers have a mean rest to go; they are taken to end evenly around it, none later than a
    whole answer from now, and then one after the other again.
    """
    running = room.slots_busy
    if not running:
        return 0
    rest = max(LEFT_SHARE, 1 - room.ids_out / (running * expected))
    first_s, last_s = max(0.0, 2 * rest - 1) * service_s, min(1.0, 2 * rest) * service_s
    if within_s <= first_s:
        return 0
    if within_s < last_s:
        share = (within_s - first_s) / (last_s - first_s)
        return min(running, int(share * (running + 1)))
    return running + int((within_s - last_s) * running / service_s)
