"""A pipeline's life in real processes: from the last join to ready, and a stage that is killed."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from bench.rows import Row, median, spread
from parhelion.testing.processes import Running, start, start_run

LIMITS = {2: "280MB", 3: "240MB"}
"""Memory of each node, so that no fewer of them hold the packaged model."""

WAIT_S = 60.0
LOOK_EVERY_S = 0.02
SETTLES_S = 1.0
"""Who joins is planned for a moment later; what is measured meanwhile may move layers."""

TOKENS = 120


class Nodes:
    """A pool of `run -n`, and the nodes that joined it to serve layers, by peer id."""

    def __init__(self, folder: Path, need: int) -> None:
        self._folder, self._limit = folder, LIMITS[need]
        self.pool = start_run(folder / "pool", need)
        self.alive: dict[str, Running] = {}
        self._count = 0

    def join(self) -> None:
        """One node more."""
        self._count += 1
        data = self._folder / f"node{self._count}"
        data.mkdir()
        kind = ["--pipeline", "--memory-limit", self._limit]
        arguments = ["join", "-s", self.pool.api, *kind, "--json", "--data", str(data)]
        node = start(arguments, data / "test.log")
        self.alive[node.ready["node"]] = node

    def is_ready(self) -> bool:
        """A prompt would be served."""
        return self.pool.call("GET", "/health")[0] == 200

    def stages(self) -> list[str]:
        """The peers of the pipeline that serves; none while there is none."""
        told = self.pool.call("GET", "/v1/nodes")[2]["pipelines"]
        found = [one for one in told if one["state"] == "serving"]
        return [stage["peer"] for stage in found[0]["stages"]] if found else []

    def is_settled(self) -> bool:
        """It serves, on nodes that are there."""
        stages = self.stages()
        return bool(stages) and set(stages) <= set(self.alive)

    def until(self, is_so: Callable[[], bool]) -> float:
        """Wait for it; how long it took."""
        began_s = time.monotonic()
        while not is_so():
            if time.monotonic() - began_s > WAIT_S:
                raise AssertionError(
                    f"not within {WAIT_S:.0f} s: {self.pool.call('GET', '/v1/nodes')}"
                )
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - began_s

    def close(self) -> None:
        """End all of them."""
        for node in self.alive.values():
            node.stop()
        self.pool.stop()


def measure(folder: Path, quick: bool) -> list[Row]:
    """Set-up of two and three nodes, then kills."""
    rows = [_ready(folder / f"ready{need}", need, 2 if quick else 5) for need in (2, 3)]
    return [*rows, _stall(folder / "stall", 2 if quick else 8)]


def _load() -> str:
    return f"load {psutil.getloadavg()[0]:.1f} before"


def _ready(folder: Path, need: int, rounds: int) -> Row:
    note = _load()
    times_s: list[float] = []
    for number in range(rounds):
        own = folder / str(number)
        own.mkdir(parents=True)
        with ExitStack() as stack:
            nodes = Nodes(own, need)
            stack.callback(nodes.close)
            for _ in range(need):
                nodes.join()
            times_s.append(nodes.until(nodes.is_ready))
    return Row(
        f"{need} nodes: from the last join to ready",
        f"{median(times_s):.1f} s",
        "printed",
        None,
        f"{spread(times_s)}; planned, slices cut and loaded, linked, timed; {note}",
    )


def _stall(folder: Path, kills: int) -> Row:
    note, dice = _load(), random.Random(5)
    folder.mkdir(parents=True)
    gaps_s: list[float] = []
    usual_ms: list[float] = []
    with ExitStack() as stack:
        nodes = Nodes(folder, 2)
        stack.callback(nodes.close)
        for number in range(kills):
            while len(nodes.alive) < 3:  # Two at work, one standby.
                nodes.join()
            time.sleep(SETTLES_S)
            nodes.until(nodes.is_settled)
            gap_s, usual = _killed(nodes, number % 2, dice.randrange(10, TOKENS // 2))
            gaps_s.append(gap_s)
            usual_ms.append(usual)
    return Row(
        "a stream's longest gap when a node of its pipeline is killed, a standby there",
        f"{median(gaps_s):.1f} s",
        "printed",
        None,
        f"{spread(gaps_s)}, first and last stage in turn; usual gap {median(usual_ms):.0f} ms; "
        f"every stream had its {TOKENS} tokens; {note}",
    )


def _killed(nodes: Nodes, place: int, at: int) -> tuple[float, float]:
    """The longest gap behind the kill in seconds, and the usual one in milliseconds."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "logit_bias": {"2": -100, "0": -100},
    }
    times_s: list[float] = []
    usage: dict[str, Any] = {}
    killed_s = float("inf")
    for event in nodes.pool.stream("/v1/chat/completions", body):
        if event == "[DONE]":
            break
        times_s.append(time.monotonic())
        usage = event.get("usage") or usage
        if len(times_s) == at:
            victim = nodes.stages()[place]
            killed_s = time.monotonic()
            nodes.alive.pop(victim).kill()
    assert usage["completion_tokens"] == TOKENS, usage
    pairs = list(itertools.pairwise(times_s))
    gap_s = max(later - earlier for earlier, later in pairs if later > killed_s)
    return gap_s, median([later - earlier for earlier, later in pairs]) * 1e3
