"""`parhelion doctor` against real pools: one thing is broken, and its line says so, no other."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from parhelion.testing.processes import Running, start_join, start_run, start_up

Report = dict[str, dict[str, str]]

UNKNOWN = "unknown without"
"""What a line says that depends on the broken thing, instead of blaming its own."""


def doctor(data: Path, *more: str, **env: str) -> Report:
    """The command's report as it prints it, by the name of the line."""
    command = [sys.executable, "-m", "parhelion", "doctor", "--json", "--data", str(data), *more]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
    lines = json.loads(done.stdout)["lines"]
    assert done.returncode == int(any(line["state"] == "fail" for line in lines)), done.stderr
    return {line["name"]: line for line in lines}


def changed(before: Report, after: Report) -> dict[str, str]:
    """The lines whose state is another than before, and their state now."""
    return {n: after[n]["state"] for n in after if after[n]["state"] != before[n]["state"]}


def data_of(pool: Running) -> Path:
    return pool.log.parent


def child(pool: Running, module: str) -> psutil.Process:
    """The child process that runs this module."""
    for process in psutil.Process(pool.process.pid).children(recursive=True):
        if module in process.cmdline():
            return process
    raise AssertionError(f"no {module} under {pool.process.pid}")


@pytest.fixture(scope="module")
def healthy(pool: Running) -> Report:
    """What is said of a pool where nothing is wrong."""
    return doctor(data_of(pool))


def test_a_healthy_pool_has_not_one_line_that_is_not_ok(healthy: Report) -> None:
    assert {name: line["state"] for name, line in healthy.items() if line["state"] != "ok"} == {}
    assert "this very clock" in healthy["clock"]["detail"]


def test_a_missing_compiler_is_one_line(pool: Running, healthy: Report, tmp_path: Path) -> None:
    report = doctor(data_of(pool), PATH=str(tmp_path), CC="", CXX="")
    assert changed(healthy, report) == {"compiler": "warn"}
    assert "built already" in report["compiler"]["detail"]


def test_a_truncated_model_is_one_line_and_the_library_is_not_blamed(
    pool: Running, healthy: Report, tmp_path: Path, smollm2: Path
) -> None:
    file = tmp_path / "parhelion" / "models" / smollm2.name
    file.parent.mkdir(parents=True)
    shutil.copy(smollm2, file)
    assert changed(healthy, doctor(data_of(pool), XDG_CACHE_HOME=str(tmp_path))) == {}
    os.truncate(file, 50_000_000)
    report = doctor(data_of(pool), XDG_CACHE_HOME=str(tmp_path))
    assert changed(healthy, report) == {"model": "fail", "library": "warn"}
    assert "models pull" in report["model"]["hint"]
    assert report["library"]["detail"].startswith("not tried")
    assert "build" not in report["library"]["hint"]


@pytest.mark.slow
def test_a_port_that_a_stranger_has_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        port = stranger.getsockname()[1]
        ports = ("--api-port", str(port), "--web-port", "0")
        before = doctor(tmp_path, *ports)
        stranger.listen()
        report = doctor(tmp_path, *ports)
    assert before["ports"]["state"] == "fail", "bound is taken, listening or not"
    assert report["ports"]["detail"] == f"{port} in use by another program"
    after = doctor(tmp_path, *ports)
    assert changed(report, after) == {"ports": "ok"}


def test_a_killed_node_is_its_line_and_a_killed_coordinator_its_own(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_run(tmp_path / "pool", 1)
    node = start_join(tmp_path / "node", pool.api.removeprefix("http://"))
    try:
        before = doctor(tmp_path / "pool")
        assert changed(before, {n: {**line, "state": "ok"} for n, line in before.items()}) == {}
        node.kill()
        report = doctor(tmp_path / "pool")
        # The engine died with its node: of it nothing is known, so it is not called broken.
        assert changed(before, report) == {"node": "fail", "engine": "warn"}
        assert " gone (the connection closed" in report["node"]["detail"]
        assert "parhelion join" in report["node"]["hint"]
        assert report["engine"]["detail"].startswith(UNKNOWN)

        pool.kill()
        # The default ports are whoever's who runs these tests beside a pool of their own.
        report = doctor(tmp_path / "pool", "--api-port", "0", "--web-port", "0")
        unknown = {"coordinator": "warn", "node": "warn", "engine": "warn", "clock": "warn"}
        assert changed(before, report) == unknown
        assert report["coordinator"]["detail"] == "not running"
        for name in ("node", "engine"):
            assert report[name]["detail"].startswith(UNKNOWN)
        assert report["clock"]["detail"].startswith("not compared")
    finally:
        node.stop()
        pool.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "ended",
    [psutil.Process.kill, psutil.Process.suspend],
    ids=["killed", "standing still while idle"],
)
def test_an_engine_that_is_ended_is_one_line_while_it_is_away(
    ended: Callable[[psutil.Process], None], tmp_path: Path, smollm2: Path
) -> None:
    file = tmp_path / "mine.gguf"
    shutil.copy(smollm2, file)
    pool = start_up(tmp_path / "data", "-m", str(file))
    try:
        before = doctor(tmp_path / "data")
        # Without its file it does not come back at once, as it otherwise would.
        file.unlink()
        ended(child(pool, "parhelion.engines.host"))
        end_s = time.monotonic() + 30
        while pool.call("GET", "/v1/nodes")[2]["data"][0]["state"] != "failed":
            assert time.monotonic() < end_s, "the node did not say that its engine is gone"
            time.sleep(0.05)
        report = doctor(tmp_path / "data")
        assert changed(before, report) == {"engine": "fail"}
        assert " failed " in report["engine"]["detail"]
        shutil.copy(smollm2, file)
        end_s = time.monotonic() + 60
        while pool.call("GET", "/health")[0] != 200:
            assert time.monotonic() < end_s, "the engine did not come back"
            time.sleep(0.1)
        assert changed(before, doctor(tmp_path / "data")) == {}
    finally:
        assert pool.stop() == 0
