"""A node that still loads is seen joining, with real processes: how far, and gone when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import UNTIMED, Running, start_run
from tests.acceptance.test_nodes import Feed

BRAKE = """
import os, sys, time
parent = os.getppid()
while "parhelion.engines.host" in sys.orig_argv and not os.path.exists(os.environ["TEST_GATE"]):
    if os.getppid() != parent:
        os._exit(1)
    time.sleep(0.02)
"""
"""As `sitecustomize`: an engine's host begins when the gate's file is there, or ends alone."""

GONE_LIMIT_S = 6.0 * 5
"""A node is gone after six seconds of silence, and at once when its socket closes; a factor 5."""

SEEN_LIMIT_S = 30.0
"""A process starts and imports in some two seconds here; a factor for a busy machine."""


class Braked:
    """Processes whose engines load when the test lets them."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        (folder / "sitecustomize.py").write_text(BRAKE)
        self._folder = folder
        self._mine: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(self._folder), "TEST_GATE": str(self.gate)}
        with (self._folder / f"{len(self._mine)}.log").open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "parhelion", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=env,
            )
        self._mine.append(process)
        return process

    def join(self, pool: Running, name: str) -> subprocess.Popen[bytes]:
        address, data = pool.api.removeprefix("http://"), self._folder / name
        return self.start("join", "-s", address, "--name", name, "--data", str(data))

    def end(self) -> None:
        # Hosts that wait at the gate would wait for it still.
        self.gate.touch()
        for process in self._mine:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


@pytest.fixture
def braked(tmp_path: Path) -> Iterator[Braked]:
    made = Braked(tmp_path)
    yield made
    made.end()


@pytest.fixture
def pool(tmp_path: Path, smollm2: Path, begun: Callable[[Running], Running]) -> Running:
    return begun(start_run(tmp_path / "pool", 1, env=UNTIMED))


def named(pool: Running, name: str) -> dict[str, Any] | None:
    nodes = pool.call("GET", "/v1/nodes")[2]["data"]
    return next((node for node in nodes if node["name"] == name), None)


def until(look: Callable[[], Any], limit_s: float = SEEN_LIMIT_S) -> Any:
    end_s = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < end_s, f"not within {limit_s:g} s"
        time.sleep(0.02)
    return seen


def shown(pool: Running, name: str, state: str) -> dict[str, Any] | None:
    node = named(pool, name)
    return node if node is not None and node["state"] == state else None


def test_a_node_that_loads_is_joining_and_then_ready_and_a_feed_tells_both(
    pool: Running, braked: Braked
) -> None:
    feed = Feed(pool)
    braked.join(pool, "slow")
    node = until(lambda: shown(pool, "slow", "joining"))
    assert node["slots"] is None and node["models"] == [] and node["tokens_per_s"] is None
    loading = until(lambda: (one := shown(pool, "slow", "joining")) and one["phase"] == "loading")
    assert loading
    status, _headers, page = pool.call("GET", f"/v1/nodes/{node['peer']}")
    assert (status, page["state"], page["phase"], page["percent"]) == (
        200, "joining", "loading", None,
    )  # fmt: skip
    health = pool.call("GET", "/health")[2]
    assert (health["status"], health["nodes"]) == ("waiting", 0)
    metrics = pool.call("GET", "/metrics")[2].decode()
    assert 'parhelion_nodes{state="joining"} 1.0' in metrics
    told = subprocess.run(
        [sys.executable, "-m", "parhelion", "nodes", "--api", pool.api],
        capture_output=True, timeout=60, check=True, text=True,
    )  # fmt: skip
    assert "joining (loading)" in told.stdout
    feed.until(lambda one: one["name"] == "slow" and one["state"] == "joining")
    braked.gate.touch()
    until(lambda: shown(pool, "slow", "ready"))
    ready = feed.until(lambda one: one["name"] == "slow" and one["state"] == "ready")
    assert [one["phase"] for one in ready["nodes"] if one["name"] == "slow"] == [None]
    feed.close()
    assert pool.call("GET", "/health")[2]["nodes"] == 1
    # It is shown once: what it said while it loaded is over.
    listed = pool.call("GET", "/v1/nodes")[2]["data"]
    assert [one["state"] for one in listed] == ["ready"]


def test_a_joining_node_that_is_killed_is_shown_no_more(pool: Running, braked: Braked) -> None:
    process = braked.join(pool, "doomed")
    node = until(lambda: shown(pool, "doomed", "joining"))
    process.kill()
    process.wait()
    until(lambda: named(pool, "doomed") is None, GONE_LIMIT_S)
    assert pool.call("GET", f"/v1/nodes/{node['peer']}")[0] == 404


def test_a_node_whose_engine_cannot_start_says_so_by_its_code(
    pool: Running, braked: Braked, tmp_path: Path
) -> None:
    process = braked.join(pool, "broken")
    until(lambda: (one := shown(pool, "broken", "joining")) and one["phase"] == "loading")
    hosts = until(lambda: hosts_of(process.pid))
    for host in hosts:
        os.kill(host, 9)
    gone = until(lambda: shown(pool, "broken", "gone"))
    assert gone["reason"] == "it could not load: engine_failed"


def test_the_own_node_of_a_pool_is_seen_joining_too(
    tmp_path: Path, smollm2: Path, braked: Braked
) -> None:
    data = tmp_path / "up"
    ports = ["--api-port", "0", "--web-port", "0"]
    braked.start("up", "--data", str(data), *ports)
    where = until(lambda: (data / "api.json").is_file() and (data / "api.json").read_text())
    pool = Running(braked._mine[-1], {"api": json.loads(where)["api"]}, data)
    (node,) = until(lambda: joining(pool))
    assert node["phase"] in ("checking", "loading")
    braked.gate.touch()
    until(lambda: pool.call("GET", "/health")[2]["status"] == "ready", 60.0)
    assert not joining(pool)


def joining(pool: Running) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError):
        nodes = pool.call("GET", "/v1/nodes")[2]["data"]
        return [node for node in nodes if node["state"] == "joining"]
    return []


def hosts_of(parent: int) -> list[int]:
    """The engine hosts that a process has started."""
    import psutil

    children = psutil.Process(parent).children(recursive=True)
    return [one.pid for one in children if "parhelion.engines.host" in " ".join(one.cmdline())]
