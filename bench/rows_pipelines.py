"""Pipelines: one model over several machines against the same model whole, on one machine.

`python -m bench pipelines`, or `python -m bench.rows_pipelines [--quick] [PART ...]` for a part.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import larger_model, rows_pipeline_life
from bench.pipelines import (
    FarRing,
    Ring,
    cpu_s,
    echo_ms,
    gap_ms,
    planned_cuts,
    ring,
    start_whole,
    streams_of,
    tokens_per_s,
)
from bench.rows import Row, median, spread
from parhelion.api.server import run
from parhelion.engines import EngineHost
from parhelion.hosts import resident_bytes
from parhelion.models import packaged_model
from parhelion.testing.stages import slice_of

STREAMS = (1, 4, 8)
TOKENS = 64
LARGER_TOKENS = 24

ROUND_TRIPS_MS = (10, 50)

SAME_THREADS, OVERLAP = 0.95, 1.6

WITHIN = 1.05
"""A second round trip is what the target forbids; wake-ups of two more threads are none."""

MIB = 2**20


def measure(folder: Path, quick: bool) -> list[Row]:
    """All parts, one after the other."""
    rows: list[Row] = []
    for name, part in PARTS.items():
        own = folder / name
        own.mkdir()
        rows += part(own, quick)
    return rows


def load() -> str:
    """What else the machine did, for whoever reads a figure."""
    return f"load {psutil.getloadavg()[0]:.1f}"


# --- against the whole model ------------------------------------------------------------------


@dataclass
class Seen:
    """What came of one host or ring, by the number of streams."""

    target: EngineHost | Ring
    tokens: int
    rates: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    cpu_ms: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Of a token, all its processes together."""
    slowest_ms: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """The same of the process that used most."""

    def pids(self) -> list[int]:
        ring_of = self.target
        return [ring_of.pid] if isinstance(ring_of, EngineHost) else [s.pid for s in ring_of.stages]

    async def run(self, streams: int) -> None:
        before_s = [cpu_s(pid) for pid in self.pids()]
        times = await streams_of(self.target, streams, self.tokens)
        used_s = [cpu_s(pid) - had_s for pid, had_s in zip(self.pids(), before_s, strict=True)]
        self.rates.setdefault(streams, []).append(tokens_per_s(times))
        a_token = 1e3 / (streams * self.tokens)
        self.cpu_ms.setdefault(streams, []).append(sum(used_s) * a_token)
        self.slowest_ms.setdefault(streams, []).append(max(used_s) * a_token)


def throughput(folder: Path, quick: bool) -> list[Row]:
    """Tokens/s of two and three stages on loopback against one engine host."""
    return run(_throughput(folder, packaged_model(), 2 if quick else 7, TOKENS))


def larger(folder: Path, quick: bool) -> list[Row]:
    """The same of a model of 1.1B weights, as a machine's memory may be short of."""
    model = larger_model.write(folder / "larger.gguf")
    rows = run(_throughput(folder, model, 1 if quick else 3, LARGER_TOKENS))
    return [row._replace(name=f"1.1B in Q4_0, {row.name}") for row in rows]


async def _throughput(folder: Path, model: Path, rounds: int, tokens: int) -> list[Row]:
    before = load()
    async with AsyncExitStack() as stack:
        seen: dict[str, Seen] = {}
        for threads in (1, 2):
            whole = await start_whole(model, threads)
            stack.push_async_callback(whole.stop)
            seen[f"whole{threads}"] = Seen(whole, tokens)
        for stages in (2, 3):
            cuts = planned_cuts(model, stages)
            made = await stack.enter_async_context(ring(model, cuts, folder, Ring))
            seen[f"ring{stages}"] = Seen(made, tokens)
        for number in range(rounds + 1):
            for streams in STREAMS:
                for one in seen.values():
                    await one.run(streams)
            if number == 0:  # The first round warms all of them up.
                for one in seen.values():
                    one.rates, one.cpu_ms, one.slowest_ms = {}, {}, {}
    rows = [
        _against(seen, stages, streams, threads, f"{before} before")
        for stages in (2, 3)
        for streams, threads in ((1, 1), (4, 2), (8, 2))
    ]
    return [*rows, _overlap(seen, f"{before} before")]


def _ratios(ours: Seen, whole: Seen, streams: int) -> list[float]:
    pairs = zip(ours.rates[streams], whole.rates[streams], strict=True)
    return [one / other for one, other in pairs]


def _figures(ours: Seen, whole: Seen, streams: int) -> str:
    """What stands behind a ratio; CPU time says less of what else ran than rates do."""
    rates = f"{median(ours.rates[streams]):.0f} against {median(whole.rates[streams]):.0f} tokens/s"
    cpu = f"{median(ours.cpu_ms[streams]):.1f} against {median(whole.cpu_ms[streams]):.1f} ms"
    return f"{rates}; CPU a token {cpu}"


def _against(seen: dict[str, Seen], stages: int, streams: int, threads: int, note: str) -> Row:
    ours, whole = seen[f"ring{stages}"], seen[f"whole{threads}"]
    ratios = _ratios(ours, whole, streams)
    share = "in turn" if threads == 1 else "at once"
    return Row(
        f"{stages} stages, {streams} stream{'s' * (streams > 1)}: one thread each, {share}, against"
        f" the whole model with {threads}",
        f"{median(ratios):.2f}",
        f">= {SAME_THREADS}",
        median(ratios) >= SAME_THREADS,
        f"{spread(ratios)}; {_figures(ours, whole, streams)}; {note}",
    )


def _overlap(seen: dict[str, Seen], note: str) -> Row:
    streams = STREAMS[-1]
    ours, whole = seen["ring2"], seen["whole1"]
    ratios = _ratios(ours, whole, streams)
    by_cpu = median(whole.cpu_ms[streams]) / median(ours.slowest_ms[streams])
    return Row(
        f"2 stages, {streams} streams: one thread each against the whole model with one",
        f"{median(ratios):.2f}",
        f">= {OVERLAP}",
        median(ratios) >= OVERLAP,
        f"{spread(ratios)}; {_figures(ours, whole, streams)}; the whole's CPU time over the busier "
        f"stage's, which two idle cores would show: {by_cpu:.2f}; {note}",
    )


# --- far apart --------------------------------------------------------------------------------


def far(folder: Path, quick: bool) -> list[Row]:
    """Two stages over the sealed links that nodes have, with a round trip added to each."""
    return run(_far(folder, 2 if quick else 5))


@dataclass
class Far:
    """What came of one added round trip, round by round; times in milliseconds."""

    token_ms: list[float] = field(default_factory=list[float])
    """Of one stream, from id to id."""
    steps_ms: list[float] = field(default_factory=list[float])
    """Of it, what the stages' own steps took."""
    bare_ms: list[float] = field(default_factory=list[float])
    """A bare round trip by the same proxy: a timer is late by some tenths."""
    rates: list[float] = field(default_factory=list[float])
    """Tokens/s of 8 streams."""

    async def run(self, two: FarRing, trip_ms: float) -> None:
        two.hold_back(trip_ms / 1e3)
        self.bare_ms.append(await echo_ms(trip_ms / 1e3))
        two.forget_steps()
        (alone,) = await streams_of(two, 1, TOKENS)
        self.token_ms.append(gap_ms(alone))
        self.steps_ms.append(two.steps_ms())
        self.rates.append(tokens_per_s(await streams_of(two, STREAMS[-1], TOKENS)))


async def _far(folder: Path, rounds: int) -> list[Row]:
    model, before = packaged_model(), load()
    seen = {trip: Far() for trip in (0, *ROUND_TRIPS_MS)}
    async with ring(model, planned_cuts(model, 2), folder, FarRing) as two:
        await streams_of(two, STREAMS[-1], TOKENS)
        for _ in range(rounds):
            for trip, far_away in seen.items():
                await far_away.run(two, trip)
    return [_far_row(trip, seen[trip], seen[0], before) for trip in ROUND_TRIPS_MS]


def _far_row(trip: int, ours: Far, near: Far, before: str) -> Row:
    # Two links of half a round trip each way: once round the ring is one round trip. What a hop
    # costs beside its delay is taken from the ring without any; a step that comes after a long
    # wait finds nothing in the processor's caches, so that steps are each run's own.
    added_ms = [
        far_ms - near_ms for far_ms, near_ms in zip(ours.bare_ms, near.bare_ms, strict=True)
    ]
    hops_ms = [all_ms - own for all_ms, own in zip(near.token_ms, near.steps_ms, strict=True)]
    parts = zip(ours.token_ms, ours.steps_ms, hops_ms, added_ms, strict=True)
    ratios = [token_ms / sum(known_ms) for token_ms, *known_ms in parts]
    return Row(
        f"2 stages, {trip} ms of round trip added, 1 stream: a token, of its steps, the hops' own "
        "work and one round trip",
        f"{median(ratios):.2f}",
        f"<= {WITHIN}",
        median(ratios) <= WITHIN,
        f"{spread(ratios)}; {median(ours.token_ms):.1f} ms: steps {median(ours.steps_ms):.1f}, "
        f"trip {median(added_ms):.1f}; without it {median(near.token_ms):.1f} ms: steps "
        f"{median(near.steps_ms):.1f}; 8 streams {median(ours.rates):.0f} tokens/s, without it "
        f"{median(near.rates):.0f}; {before} before",
    )


# --- bytes ------------------------------------------------------------------------------------


def traffic(folder: Path, quick: bool) -> list[Row]:
    """What a token puts on a link, and on the ring's way back."""
    del quick
    return run(_traffic(folder))


async def _traffic(folder: Path) -> list[Row]:
    model = packaged_model()
    rows: list[Row] = []
    for wire in ("fp32", "bf16"):
        async with ring(model, planned_cuts(model, 2), folder, FarRing, wire) as two:
            for streams in (1, STREAMS[-1]):
                before = [two.stages[0].stats().rows, *two.sent_bytes(), *two.hop_bytes]
                await streams_of(two, streams, TOKENS)
                after = [two.stages[0].stats().rows, *two.sent_bytes(), *two.hop_bytes]
                passed, *sent = (b - a for a, b in zip(before, after, strict=True))
                each = [of_all / passed for of_all in sent]
                rows.append(_traffic_row(wire, streams, each, _bare_bytes(two, wire)))
    return rows


def _bare_bytes(two: Ring, wire: str) -> int:
    """Bytes of one bare hidden state."""
    return two.stages[0].describe().n_embd * (4 if wire == "fp32" else 2)


def _traffic_row(wire: str, streams: int, each: Sequence[float], bare_bytes: int) -> Row:
    sealed, back_sealed, frame, back = each
    return Row(
        f"bytes a token and hop, {wire}, {streams} stream{'s' * (streams > 1)}",
        f"{sealed:,.0f}",
        "printed",
        None,
        f"sealed on the link; its frame {frame:,.0f}, a bare hidden state {bare_bytes:,}; the way "
        f"back {back_sealed:.0f} sealed, {back:.0f} as a frame",
    )


# --- memory -----------------------------------------------------------------------------------


def memory(folder: Path, quick: bool) -> list[Row]:
    """Resident memory of the whole model's process and of each stage's."""
    del quick
    return run(_memory(folder))


async def _memory(folder: Path) -> list[Row]:
    model = packaged_model()
    whole = await start_whole(model, 1)
    await streams_of(whole, STREAMS[-1], TOKENS)
    all_of_it = _held(whole.pid, model)
    await whole.stop()
    rows: list[Row] = []
    for stages in (2, 3):
        cuts = planned_cuts(model, stages)
        async with ring(model, cuts, folder, Ring) as made:
            await streams_of(made, STREAMS[-1], TOKENS)
            held = [
                _held(stage.pid, slice_of(model, spec.start, spec.end, folder))
                for stage, spec in zip(made.stages, made.specs, strict=True)
            ]
        rows.append(_memory_row(cuts, held, all_of_it))
    return rows


def _held(pid: int, file: Path) -> tuple[float, float]:
    """Resident MiB of a host, and its model file's."""
    return (resident_bytes(pid, [file]) or 0) / MIB, file.stat().st_size / MIB


def _memory_row(
    cuts: Sequence[int], held: Sequence[tuple[float, float]], whole: tuple[float, float]
) -> Row:
    each = ", ".join(
        f"layers {start} to {end}: {all_mib:.0f} MiB ({file_mib:.0f} weights)"
        for (start, end), (all_mib, file_mib) in zip(itertools.pairwise(cuts), held, strict=True)
    )
    largest = max(all_mib for all_mib, _ in held)
    return Row(
        f"resident memory, the largest of {len(held)} stages against the whole model's process",
        f"{largest / whole[0]:.2f}",
        "printed",
        None,
        f"whole {whole[0]:.0f} MiB ({whole[1]:.0f} weights); {each}; the rest is KV memory for "
        "4,096 tokens, llama.cpp's buffers and Python",
    )


PARTS: dict[str, Callable[[Path, bool], list[Row]]] = {
    "throughput": throughput,
    "larger": larger,
    "far": far,
    "traffic": traffic,
    "memory": memory,
    "life": rows_pipeline_life.measure,
}


def main() -> None:
    """The command line for parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="parhelion-bench-") as folder:
            for row in PARTS[name](Path(folder), options.quick):
                print(row.line(), flush=True)


if __name__ == "__main__":
    main()
