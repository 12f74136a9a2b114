"""One model whole in an engine host, and as a ring of stage hosts: what the rows of pipelines time.

The stages are real processes. Between them frames go through this process as they are (`Ring`), or
over real sealed TCP links that a proxy holds back (`FarRing`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

from bench.decode_loop import sample_prompts
from bench.engine_ratio import DIGEST, PROMPT_IDS, job, stamps
from parhelion.config import EngineConfig
from parhelion.coordinator.planner import Member, ModelShape, Pool, plan
from parhelion.engines import EngineHost
from parhelion.identity import NodeKey
from parhelion.link import PairListener, Pairs, PairTicket, Pipe
from parhelion.link.address import Address
from parhelion.models.anatomy import anatomy
from parhelion.models.slices import outline_of, weigh
from parhelion.testing.delay import Delay
from parhelion.testing.stages import Chain
from parhelion.words import Step

SIZES: dict[str, Any] = {"slots": 8, "context": 2048, "kv_tokens": 4096}
"""Of every ring; the whole model's host gets as much."""

ECHOES = 20

_names = itertools.count(1)

R = TypeVar("R", bound="Ring")


def planned_cuts(model: Path, stages: int) -> tuple[int, ...]:
    """Where the planner cuts this model for so many machines that are alike, and too small.

    The head's time is told by its weights: by its bytes, as long as nothing else is known, it is
    three times what this model's 8-bit head beside 4-bit layers takes of a processor.
    """
    outline = outline_of(model)
    weight, parts = weigh(model), anatomy(outline)
    head, layer = parts.heads[0] if parts.heads else parts.embedding, parts.by_layer[0].values()
    shape = ModelShape(
        digest=DIGEST,
        layer_bytes=weight.layer_bytes,
        head_bytes=weight.head_bytes,
        tail_bytes=weight.tail_bytes,
        tail_layers=head.elements / sum(tensor.elements for tensor in layer),
    )
    # Just too little for one stage less, so that memory does not say where the cuts are.
    each = (shape.whole_bytes - 1) // (stages - 1)
    members = tuple(
        Member(peer=f"node-{place}", memory_bytes=each, layer_ms=1.0) for place in range(stages)
    )
    (pipeline,) = plan(Pool(models=(shape,), members=members, rtt=_near)).pipelines
    return (0, *(stage.end for stage in pipeline.stages))


def _near(_one: str, _other: str) -> float:
    return 0.1


async def start_whole(model: Path, threads: int) -> EngineHost:
    """The whole model in one host."""
    kv_tokens, slots = SIZES["kv_tokens"], SIZES["slots"]
    config = EngineConfig(slots=slots, threads=threads, kv_tokens=kv_tokens)
    return await EngineHost.start(model, DIGEST, config, lambda _event: None)


class Ring(Chain):
    """Stages whose frames pass through memory; notes when each id was told of."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.came: dict[str, list[float]] = {}
        self._busy_ms: list[list[float]] = [[] for _ in self.specs]
        self._total_ms = [0.0] * len(self.specs)

    def forget_steps(self) -> None:
        """What steps took counts from here."""
        self._busy_ms = [[] for _ in self.specs]

    def steps_ms(self) -> float:
        """The usual step of each stage, all together."""
        return sum(map(statistics.median, self._busy_ms))

    def _pass_on(self, place: int, frame: bytes) -> None:
        total_ms = self.stages[place].stats().busy_ms
        self._busy_ms[place].append(total_ms - self._total_ms[place])
        self._total_ms[place] = total_ms
        super()._pass_on(place, frame)

    def _hear(self, place: int, steps: tuple[Step, ...]) -> None:
        now_s = time.perf_counter()
        for step in steps:
            self.came.setdefault(step.job, []).extend([now_s] * len(step.ids))
        super()._hear(place, steps)


class FarRing(Ring):
    """The same over the links that nodes have: sealed, by TCP, and `delays` in the middle."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.delays: list[Delay] = []
        self._hops: list[Pipe] = []
        self._waiting: list[asyncio.Queue[bytes]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def link(self) -> None:
        """Open a link from each stage to the next one."""
        for place in range(len(self.stages)):
            listener = PairListener()
            await listener.start("127.0.0.1")
            assert listener.address is not None
            delay = Delay(int(listener.address.rpartition(":")[2]), 0.0)
            self.delays.append(delay)
            out, into = await _linked(listener, delay.address)
            await listener.stop()
            self._hops += [out, into]
            waiting: asyncio.Queue[bytes] = asyncio.Queue()
            self._waiting.append(waiting)
            target = self.stages[(place + 1) % len(self.stages)]
            self._tasks.append(asyncio.create_task(_send(waiting, out)))
            self._tasks.append(asyncio.create_task(_receive(into, target.feed)))

    def hold_back(self, round_trip_s: float) -> None:
        """From now on each link has this round trip, in addition to its own."""
        for delay in self.delays:
            delay.one_way_s = round_trip_s / 2

    def sent_bytes(self) -> list[int]:
        """What each link's sending side has put on its socket."""
        return [pipe.view().sent_bytes for pipe in self._hops[::2]]

    async def stop(self) -> None:
        """End links and stages."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(pipe.close("over") for pipe in self._hops))
        for delay in self.delays:
            delay.close()
        await super().stop()

    def _carry(self, place: int, frame: bytes) -> None:
        self._waiting[place].put_nowait(frame)


async def _linked(listener: PairListener, address: str) -> tuple[Pipe, Pipe]:
    """Both ends of a link to `listener` by way of `address`."""
    keys = NodeKey(os.urandom(32)), NodeKey(os.urandom(32))
    link, secret = f"link_{next(_names)}", os.urandom(32)
    # Nobody is at the relay's address: the direct way is the only one.
    nowhere = Address(url="http://127.0.0.1:1")
    dial = PairTicket(link=link, secret=secret, peer=keys[1].peer, role="dial", direct=(address,))
    accept = PairTicket(link=link, secret=secret, peer=keys[0].peer, role="accept")
    return await asyncio.gather(
        Pairs(keys[0], nowhere, here="127.0.0.1").open(dial),
        Pairs(keys[1], nowhere, listener=listener, here="127.0.0.1").open(accept),
    )


async def _send(waiting: asyncio.Queue[bytes], pipe: Pipe) -> None:
    while True:
        await pipe.send(await waiting.get())


async def _receive(pipe: Pipe, feed: Any) -> None:
    async for frame in pipe:
        feed(frame)


@asynccontextmanager
async def ring(
    model: Path,
    cuts: Sequence[int],
    folder: Path,
    kind: type[R],
    wire: Literal["fp32", "bf16"] = "fp32",
) -> AsyncIterator[R]:
    """A ring of this kind, one thread a stage."""
    config = EngineConfig(threads=1)
    made = await kind.start(model, cuts, folder, digest=DIGEST, config=config, wire=wire, **SIZES)
    try:
        if isinstance(made, FarRing):
            await made.link()
        yield made
    finally:
        await made.stop()


async def streams_of(target: EngineHost | Ring, streams: int, tokens: int) -> list[list[float]]:
    """When each id of each of so many streams came, all begun at once."""
    jobs = [
        job(f"job_{next(_names):026d}", ids, tokens, scope="")
        for ids in sample_prompts(streams, PROMPT_IDS)
    ]
    if isinstance(target, EngineHost):
        return await asyncio.gather(*(stamps(target, one) for one in jobs))
    await asyncio.gather(*(target.generate(one) for one in jobs))
    return [target.came.pop(one.job) for one in jobs]


def tokens_per_s(times: Sequence[Sequence[float]]) -> float:
    """Of all streams, while every one of them decodes."""
    begin, end = max(one[0] for one in times), min(one[-1] for one in times)
    return sum(sum(begin < at <= end for at in one) for one in times) / (end - begin)


def gap_ms(times: Sequence[float]) -> float:
    """A stream's usual time between two ids."""
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    return gaps[len(gaps) // 2] * 1e3


async def echo_ms(round_trip_s: float) -> float:
    """What such a delay really adds: the usual round trip of a hidden state by a bare socket."""
    state, times_ms = bytes(2304), list[float]()
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    with Delay(server.sockets[0].getsockname()[1], round_trip_s / 2) as delay:
        reader, writer = await asyncio.open_connection("127.0.0.1", delay.port)
        for _ in range(ECHOES):
            began_s = time.perf_counter()
            writer.write(state)
            await reader.readexactly(len(state))
            times_ms.append((time.perf_counter() - began_s) * 1e3)
        writer.close()
    server.close()
    return statistics.median(times_ms)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while state := await reader.read(4096):
        writer.write(state)
    writer.close()


def cpu_s(pid: int) -> float:
    """What a process has used of processors until now."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
