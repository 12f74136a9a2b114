"""Machines that join a pool for pipelines only, as tests need them: started, looked at, struck."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from psutil import NoSuchProcess

from parhelion.testing.processes import Running, start, start_join, start_pool

LAYERS = 30
"""Of the packaged model, which takes some 380 MB whole: weights, a KV cache for 8 chats, itself."""

HALF = "280MB"
"""Up to 19 layers with the embedding, 17 with the head: two machines hold the model, one never."""

THIRD = "240MB"
"""Up to 14 layers with the embedding, 12 with the head, 18 without: three hold the model."""

STREAM_IDS = 120
STREAM: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": STREAM_IDS,
    "temperature": 0,
    "frequency_penalty": 0.6,
    "logit_bias": {"2": -100, "0": -100},
}
"""Greedy; the bias keeps end-of-text away. Without the penalty it soon says the same again and
again, and what is lost or doubled then would not show."""

READY_LIMIT_S = 60.0
"""Three stages of a small model are loaded, linked and timed in some 5 s; a factor for machines
that do much else."""

PLANNED_WITHIN_S = 1.0
"""Who joins is planned for 0.2 s later; what is measured meanwhile may deal the layers anew."""

LOOK_EVERY_S = 0.05


def prompt(number: int) -> dict[str, Any]:
    """One of several greedy prompts, each with another answer."""
    said = ("the sea", "a lighthouse", "the moon", "an old clock", "two ships", "a garden")
    text = f"Tell me a story about {said[number]}."
    return {**STREAM, "messages": [{"role": "user", "content": text}], "max_tokens": 48}


@dataclass(frozen=True, slots=True)
class Told:
    """A whole answer: its text, its usage, when each event came."""

    text: str
    usage: dict[str, Any]
    at_s: tuple[float, ...]

    def stall_s(self, after_s: float) -> float:
        """The longest silence that ended after this."""
        pairs = zip(self.at_s, self.at_s[1:], strict=False)
        return max((end - start for start, end in pairs if end > after_s), default=0.0)


def answer(
    pool: Running,
    body: dict[str, Any],
    at: int = 0,
    then: Callable[[], None] = lambda: None,
) -> Told:
    """A streamed answer to its end; `then` happens at its event number `at`."""
    text, usage, times = "", dict[str, Any](), list[float]()
    ended = False
    for seen, event in enumerate(pool.stream("/v1/chat/completions", body), start=1):
        times.append(time.monotonic())
        if event == "[DONE]":
            ended = True
            break
        assert "error" not in event, event
        text += "".join(one["delta"].get("content") or "" for one in event["choices"])
        usage = event.get("usage") or usage
        if seen == at:
            then()
    assert ended, "a stream never ends quietly"
    return Told(text, usage, tuple(times))


def whole_answers(folder: Path, bodies: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Texts and ids of these as a machine answers them that holds the whole model."""
    pool = start_pool(folder / "pool")
    node = None
    try:
        node = start_join(folder / "node", pool.api.removeprefix("http://"))
        found: list[tuple[str, list[int]]] = []
        for body in bodies:
            told = answer(pool, body)
            found.append((told.text, ids_of(pool, told.usage["receipt"])))
        return found
    finally:
        for running in (node, pool):
            if running is not None:
                running.stop()


def ids_of(pool: Running, receipt: str) -> list[int]:
    """The output ids of an answer, as its evidence has them."""
    return receipt_of(pool, receipt)[1]["output_ids"]


def receipt_of(pool: Running, id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The receipt and its evidence."""
    status, _headers, told = pool.call("GET", f"/v1/receipts/{id}?evidence=1")
    assert status == 200, told
    return told["receipt"], told["evidence"]


@contextlib.contextmanager
def members_of(pool: Running, folder: Path) -> Iterator[Members]:
    """Machines for a pool that has none; in the end they are gone, and it drains and goes, too."""
    made = Members(pool, folder)
    try:
        yield made
    finally:
        made.close()
        assert made.pool.stop() == 0


class Members:
    """The machines of one pool that serve in pipelines, and others that hold the whole model."""

    def __init__(self, pool: Running, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.running: dict[str, Running] = {}
        """Those that nothing has befallen, by peer id."""
        self._struck: list[Running] = []
        self._names = 0

    def join(
        self,
        limit: str | None = HALF,
        *,
        name: str | None = None,
        where: str | None = None,
        env: Mapping[str, str] | None = None,
        model: Path | None = None,
    ) -> str:
        """Have one more, or one again by its old name; its peer id. None: with the whole model,
        the packaged one or `model`.

        `where` is how it reaches the pool, if not straight.
        """
        if name is None:
            self._names += 1
            name = f"m{self._names}"
        data = self.folder / name
        data.mkdir(exist_ok=True)
        kind = [] if limit is None else ["--pipeline", "--memory-limit", limit]
        where = where or self.pool.api.removeprefix("http://")
        kind += [] if model is None else ["-m", str(model)]
        arguments = ["join", "-s", where, *kind, "--name", name, "--json", "--data", str(data)]
        node = start(arguments, data / "test.log", env=env)
        self.running[node.ready["node"]] = node
        return node.ready["node"]

    def take(self, peer: str) -> Running:
        """Something befalls it: it counts no more, and is ended when the test is."""
        node = self.running.pop(peer)
        self._struck.append(node)
        return node

    def name(self, peer: str) -> str:
        """The name that it joined by, and joins by again."""
        return next(node["name"] for node in self.nodes()["data"] if node["peer"] == peer)

    def leave(self, peer: str) -> None:
        """Have it drain and go, as Ctrl-C does."""
        assert self.take(peer).stop() == 0

    def have(self, count: int, limit: str = HALF) -> None:
        """See that so many members are there which nothing has befallen, and are put to work."""
        while len(self.running) < count:
            self.join(limit)
        for peer in list(self.running)[count:]:
            self.leave(peer)
        self.until_settled()

    # --- what the pool says -------------------------------------------------------------------

    def nodes(self) -> dict[str, Any]:
        """`GET /v1/nodes`."""
        status, _headers, told = self.pool.call("GET", "/v1/nodes")
        assert status == 200, told
        return told

    def is_ready(self, peer: str) -> bool:
        """Whether it is here, with what it serves."""
        return any(
            (node["peer"], node["state"]) == (peer, "ready") for node in self.nodes()["data"]
        )

    def members(self) -> list[str]:
        """Peer ids of all that are here."""
        return [node["peer"] for node in self.nodes()["data"] if node["state"] != "gone"]

    def standbys(self) -> list[str]:
        """Peer ids of those that the plan has no layers for."""
        return [node["peer"] for node in self.nodes()["data"] if node["standby"]]

    def pipeline(self) -> dict[str, Any]:
        """The one pipeline; empty while there is none."""
        found = self.nodes()["pipelines"]
        assert len(found) < 2, found
        return found[0] if found else {}

    def stages(self) -> list[str]:
        """Peer ids of the stages of the one pipeline, in order."""
        return [stage["peer"] for stage in self.pipeline().get("stages", ())]

    def is_settled(self) -> bool:
        """Whether the one pipeline serves as the plan has it, and with sound members only."""
        pipeline = self.pipeline()
        stages = pipeline.get("stages", [])
        # A stage of the plan has a time when it is at work.
        at_work = all(stage["step_ms"] is not None for stage in stages)
        sound = {stage["peer"] for stage in stages} <= set(self.running)
        return pipeline.get("state") == "serving" and at_work and sound

    def until(self, is_so: Callable[[], bool], what: str, limit_s: float = READY_LIMIT_S) -> float:
        """Wait for it; how long it took."""
        began_s = time.monotonic()
        while not is_so():
            if time.monotonic() - began_s > limit_s:
                raise AssertionError(f"{what}: {json.dumps(self.nodes(), indent=1)[-6000:]}")
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - began_s

    def until_serving(self, limit_s: float = READY_LIMIT_S) -> float:
        """Wait until a prompt would be served as the plan has it; how long it took."""

        def is_up() -> bool:
            return self.pool.call("GET", "/health")[0] == 200 and self.is_settled()

        return self.until(is_up, "no pipeline serves", limit_s)

    def until_settled(self) -> None:
        """Wait until a plan for all that are here is made and followed."""
        self.until(lambda: set(self.members()) == set(self.running), "others are here")
        time.sleep(PLANNED_WITHIN_S)
        self.until_serving()

    # --- what befalls them --------------------------------------------------------------------

    def stage_of(self, peer: str) -> psutil.Process:
        """The process that holds this member's layers."""
        for child in psutil.Process(self.running[peer].process.pid).children(recursive=True):
            with contextlib.suppress(NoSuchProcess):
                if "parhelion.engines.stage_host" in child.cmdline():
                    return child
        raise AssertionError(f"{peer} has no stage")

    def close(self) -> None:
        """End all of them, however they are."""
        for node in [*self._struck, *self.running.values()]:
            for one in _family(node):
                with contextlib.suppress(NoSuchProcess):
                    one.send_signal(signal.SIGCONT)
            node.kill()


def _family(node: Running) -> Iterator[psutil.Process]:
    if node.process.poll() is None:
        with contextlib.suppress(NoSuchProcess):
            own = psutil.Process(node.process.pid)
            yield from (own, *own.children(recursive=True))


class Throttle:
    """Has a process stand still for most of the time, once it has begun, until the end."""

    def __init__(
        self, process: psutil.Process, still_s: float = 1.4, at_work_s: float = 0.1
    ) -> None:
        self.began_s = 0.0
        self._process = process
        self._still_s, self._at_work_s = still_s, at_work_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Throttle:
        return self

    def begin(self) -> None:
        """From now on."""
        self.began_s = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        """No longer."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        # Who is let go of ends, whoever stands still.
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._over.is_set():
                self._process.suspend()
                self._over.wait(self._still_s)
                self._process.resume()
                self._over.wait(self._at_work_s)

    def __exit__(self, *_: object) -> None:
        self.end()
