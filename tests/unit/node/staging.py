"""A node's stages with fakes on every side: a coordinator that notes, processes, files, links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parhelion.engines import EngineEvent
from parhelion.engines.hidden import Entry, encode_ids
from parhelion.engines.stage_protocol import StageCard, StageStats, StageTold
from parhelion.identity import NodeKey
from parhelion.link import (
    CloseStage,
    LinkBroken,
    LoadStage,
    OpenStage,
    Pair,
    PairTicket,
    ServeSlice,
)
from parhelion.node.outbox import Outbox
from parhelion.node.pipes import OpenPipe
from parhelion.node.slice_server import Lent
from parhelion.node.stage import Found, StageTools
from parhelion.node.stages import Stages
from parhelion.proof import opening_hash
from parhelion.words import (
    Job,
    Problem,
    ProblemCode,
    StageJob,
    StageOffer,
    StageSpec,
    Step,
)

DIGEST, SLICE = "d" * 64, "5" * 64
OPENING = b"o" * 32
OFFER = StageOffer(memory_bytes=1000, threads=2, wires=("fp32", "bf16"))


def spec(start: int = 0, end: int = 15, **more: Any) -> StageSpec:
    fields: dict[str, Any] = {
        "digest": DIGEST,
        "layers": 30,
        "stages": 2,
        "slots": 2,
        "context": 512,
        "kv_tokens": 1024,
        **more,
    }
    return StageSpec(start=start, end=end, **fields)


MIDDLE = {"start": 10, "end": 20, "stages": 3}
LAST = {"start": 15, "end": 30}


def load(
    name: str = "one",
    size_bytes: int = 400,
    holders: tuple[PairTicket, ...] = (),
    token: str = "",
    **more: Any,
) -> LoadStage:
    return LoadStage(
        stage=name,
        spec=spec(**more),
        size_bytes=size_bytes,
        sha256=SLICE,
        holders=holders,
        token=token,
    )


def ids(job: str = "job_a", attempt: int = 1, **more: Any) -> Job:
    fields: dict[str, Any] = {
        "prompt_ids": (1, 2, 3),
        "max_tokens": 16,
        "opening": OPENING,
        **more,
    }
    return Job(job=job, attempt=attempt, digest=DIGEST, cache_scope="s", **fields)


def open_at(name: str, job: Job, *, told: bool = True, **more: Any) -> OpenStage:
    wanted = StageJob(
        job=job.job, attempt=job.attempt, capacity=len(job.prompt_ids) + job.max_tokens, **more
    )
    return OpenStage(stage=name, job=wanted, ids=job if told else None)


def close_at(name: str, job: str = "job_a", attempt: int = 1, **more: Any) -> CloseStage:
    fields: dict[str, Any] = {
        "start": 0,
        "to": 3,
        "head": "a" * 64,
        "opening_hash": opening_hash(OPENING),
        **more,
    }
    return CloseStage(stage=name, job=job, attempt=attempt, **fields)


def ticket(role: Any = "dial", link: str = "link") -> PairTicket:
    return PairTicket(link=link, secret=b"s" * 32, peer="peer", role=role)


def pair_at(name: str, link: str, side: Any = "next") -> Pair:
    return Pair(stage=name, side=side, ticket=ticket(link=link))


@dataclass(frozen=True)
class Seen:
    path: str = "relay"
    rtt_ms: float = 1.0
    mbit_s: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0


class FakePipe:
    """A link whose other end is the test."""

    def __init__(self, ticket: PairTicket) -> None:
        self.ticket = ticket
        self.sent: list[bytes] = []
        self.closed: str | None = None
        self.seen = Seen()
        self.stuck = False
        self._coming: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    async def send(self, frame: bytes) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(frame)

    async def receive(self) -> bytes:
        item = await self._coming.get()
        if isinstance(item, Exception):
            raise item
        return item

    def view(self) -> Seen:
        return self.seen

    async def close(self, reason: str) -> None:
        self.closed = reason

    def bring(self, frame: bytes) -> None:
        self._coming.put_nowait(frame)

    def end(self, cause: str) -> None:
        self._coming.put_nowait(LinkBroken(ProblemCode.LINK_BROKEN, cause))


class FakeHost:
    """A stage's process that does what the test says, and notes what it is told."""

    def __init__(self, spec: StageSpec, told: StageTold) -> None:
        self.spec = spec
        self.told = told
        self.pid = 1
        self.heard: list[tuple[Any, ...]] = []
        self.held = 0
        self.refuses: Problem | None = None
        self.opens = asyncio.Event()
        self.opens.set()
        self.busy_ms = 0.0
        self.steps = self.rows = 0
        self.stopped = False
        self.step_ms = 4.0

    def describe(self) -> StageCard:
        return StageCard(
            spec=self.spec,
            n_embd=8,
            n_vocab=100,
            backend="fake",
            device="none",
            kv_tokens=self.spec.kv_tokens,
            resident_bytes=77,
            rows=32,
        )

    def stats(self) -> StageStats:
        return StageStats(self.steps, self.rows, self.busy_ms, self.step_ms)

    async def open(self, job: StageJob, ids: Job | None) -> int:
        self.heard.append(("open", job.job, job.attempt, ids is not None))
        await self.opens.wait()
        if self.refuses is not None:
            raise self.refuses
        return self.held

    def go(self, job: str, attempt: int, reused: int) -> None:
        self.heard.append(("go", job, attempt, reused))

    def feed(self, frame: bytes) -> None:
        self.heard.append(("feed", frame))

    def close(self, job: str, attempt: int, tags: tuple[bytes, ...]) -> None:
        self.heard.append(("close", job, attempt, tags))

    async def time(self, rows: int, repeats: int) -> float:
        self.heard.append(("time", rows, repeats))
        return self.step_ms

    async def stop(self) -> None:
        self.stopped = True

    def makes(self, *steps: Step, took_ms: float = 4.0) -> None:
        """A step of the process: what it made for the coordinator, and a frame for the ring."""
        self.busy_ms += took_ms
        self.steps += 1
        self.rows += 1
        self.told.on_steps(steps)
        entries = [Entry(step.job, step.attempt, 3 + step.start, 0, False) for step in steps]
        if entries:
            self.told.on_frame(encode_ids(entries, []))

    def event(self, kind: Any, reason: str = "signal 9") -> None:
        self.told.on_event(EngineEvent(kind=kind, reason=reason))


class Scene:
    """The stages of one node, and a coordinator's ear."""

    def __init__(self, clock: Any, offer: StageOffer = OFFER) -> None:
        self.key = NodeKey(b"n" * 32)
        self.clock = clock
        self.said: list[Any] = []
        self.hosts: list[FakeHost] = []
        self.pipes: dict[str, FakePipe] = {}
        self.released = 0
        self.lent: list[ServeSlice] = []
        self.find_waits: asyncio.Event | None = None
        self.find_fails: Exception | None = None
        self.start_fails: Exception | None = None
        self.pipe_fails: Exception | None = None
        self.need_bytes = 0
        tools = StageTools(
            find=self._find, start=self._start, lend=self._lend, resident_bytes=lambda _pid: 88
        )
        self.stages = Stages(self.key, clock, offer, tools)
        self.begin()

    def begin(self) -> None:
        self.outbox = Outbox(self.said.append)
        self.stages.begin(self.outbox, self._open_pipe)

    async def _lend(self, order: ServeSlice) -> Lent:
        self.lent.append(order)
        return Lent(lambda offset, length: bytes(length), lambda: None)

    async def _find(self, order: LoadStage, open_pipe: OpenPipe) -> Found:
        if self.find_waits is not None:
            await self.find_waits.wait()
        if self.find_fails is not None:
            raise self.find_fails

        def release() -> None:
            self.released += 1

        return Found(Path("slice.gguf"), 123, self.need_bytes, release)

    async def _start(self, path: Path, wanted: StageSpec, told: StageTold) -> FakeHost:
        if self.start_fails is not None:
            raise self.start_fails
        host = FakeHost(wanted, told)
        host.event("ready", "the model is loaded")
        self.hosts.append(host)
        return host

    async def _open_pipe(self, ticket: PairTicket) -> FakePipe:
        if self.pipe_fails is not None:
            raise self.pipe_fails
        pipe = self.pipes[ticket.link] = FakePipe(ticket)
        return pipe

    @property
    def host(self) -> FakeHost:
        return self.hosts[-1]

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]

    async def obey(self, *orders: Any) -> None:
        for order in orders:
            self.stages.obey(order)
            await settle()

    async def loaded(self, name: str = "one", **more: Any) -> FakeHost:
        await self.obey(load(name, **more))
        return self.host


async def settle(until: Callable[[], bool] | None = None) -> None:
    """Let all that is ready run; with `until`, up to a second for it to become true."""
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(100 if until is not None else 0):
        if until is not None and until():
            return
        await asyncio.sleep(0.01)
