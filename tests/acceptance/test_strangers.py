"""Strangers in a pool that has an engine of its own: the honest serve, liars get no paid work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.probe_engines import quantised
from parhelion.testing.processes import (
    Running,
    start,
    start_echo,
    start_join,
    start_pool,
    start_run,
)

Begun = Callable[[Running], Running]

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ASK: dict[str, Any] = {"prompt": "The sea was", "max_tokens": 8, "temperature": 0}
MEASURED_LIMIT_S = 60.0
"""A probe takes a second or two; a factor for a machine that has other things to do."""


MISNAMED = """
import msgspec
from parhelion import models
from parhelion.cli import main
honest = models.inspect
models.inspect = lambda *file: msgspec.structs.replace(honest(*file), digest="{digest}")
main()
"""
"""The command as it is, only that it says its file is the pool's."""

TRUNCATED = """
import msgspec
from parhelion.cli import main
from parhelion.engines import EngineHost
honest = EngineHost.generate
EngineHost.generate = lambda self, job: honest(
    self, msgspec.structs.replace(job, prompt_ids=job.prompt_ids[-24:])
)
main()
"""
"""The command as it is, only that its engine reads the end of each prompt."""


def node_in(pool: Running, peer: str, *states: str) -> dict[str, Any]:
    """The node's entry of /v1/nodes once it is in one of these states."""
    end_s = time.monotonic() + MEASURED_LIMIT_S
    while True:
        _status, _headers, body = pool.call("GET", "/v1/nodes")
        found = {node["peer"]: node for node in body["data"]}.get(peer, {})
        if found.get("state") in states:
            return found
        assert time.monotonic() < end_s, found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """A pool with an engine of its own, which is ready."""
    folder = tmp_path_factory.mktemp("guarded")
    pool = start_pool(folder / "pool", env={"PARHELION_FALLBACK_MODELS": MODEL})
    end_s = time.monotonic() + MEASURED_LIMIT_S
    while pool.call("GET", "/health")[0] != 200:
        assert time.monotonic() < end_s
        time.sleep(0.05)
    yield pool
    assert pool.stop() == 0


def address(pool: Running) -> str:
    return pool.api.removeprefix("http://")


def gets_no_paid_work(pool: Running, node: Running, peer: str) -> None:
    """The node is refused; its operator and everybody else are told why."""
    refused = node_in(pool, peer, "refused")
    assert "ids differ from the coordinator's own engine" in refused["reason"]
    assert "no paid work for this node" in node.log.read_text()
    for _ in range(3):
        _status, _headers, answer = pool.call("POST", "/v1/completions", ASK)
        assert answer["usage"]["route"] == "fallback"


@pytest.mark.slow
def test_a_liar_gets_no_paid_work_and_an_honest_stranger_does(
    guarded: Running, begun: Begun, tmp_path: Path
) -> None:
    # It says that it serves the model, and answers with ids that are none of its own.
    liar = begun(start_echo(tmp_path / "liar", address(guarded), tokens_per_s=0, slots=4))
    gets_no_paid_work(guarded, liar, liar.ready["peer"])

    honest = begun(start_join(tmp_path / "honest", address(guarded)))
    seen = node_in(guarded, honest.ready["node"], "ready")
    assert seen["tokens_per_s"] is not None, "measured by its probes"
    said = honest.log.read_text()
    measured = said.index("node is measuring")
    assert measured < said.rindex("node is ready"), "its operator reads where it stands"
    for _ in range(3):
        _status, _headers, answer = guarded.call("POST", "/v1/completions", ASK)
        assert answer["usage"]["nodes"] == [honest.ready["node"]]


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["other weights", "a truncated context"])
def test_a_real_node_that_serves_something_else_gets_no_paid_work(
    guarded: Running, begun: Begun, tmp_path: Path, smollm2: Path, lie: str
) -> None:
    digest = guarded.call("GET", "/v1/models")[2]["data"][0]["digest"]
    code, file = TRUNCATED, smollm2
    if lie == "other weights":
        code, file = MISNAMED.format(digest=digest), quantised(smollm2, "Q2_K", tmp_path)
    (tmp_path / "liar.py").write_text(code)
    data = tmp_path / "node"
    words = ["join", "-s", address(guarded), "--json", "--data", str(data), "-m", str(file)]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    liar = begun(start(words, tmp_path / "log", module="liar", env={"PYTHONPATH": path}))
    gets_no_paid_work(guarded, liar, liar.ready["node"])


def refused_join(folder: Path, where: str) -> str:
    """What a join that ends at once says on standard error."""
    words = ("join", "-s", where, "--data", str(folder))
    done = parhelion(*words)
    assert done.returncode == 1 and "hint: " in done.stderr
    return done.stderr


def parhelion(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parhelion", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_an_owner_invites_bans_and_allows_a_node_and_each_counts_at_once(
    begun: Begun, tmp_path: Path, smollm2: Path
) -> None:
    pool = begun(start_run(tmp_path / "pool", 1, env={"PARHELION_NODES_ADMIT": "invite"}))
    where, folder = address(pool), tmp_path / "node"

    def owner(*words: str) -> str:
        done = parhelion("nodes", *words, "--data", str(pool.log.parent))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert "admits nodes by invite" in refused_join(folder, where)
    invite = owner("invite")
    node = begun(start_join(folder, f"{where}#{invite}", "--name", "red-one"))
    peer = node.ready["node"]
    assert pool.call("POST", "/v1/completions", ASK)[2]["usage"]["nodes"] == [peer]
    assert "used up" in refused_join(tmp_path / "other", f"{where}#{invite}"), "it was for one"

    assert owner("ban", "red-one", "--reason", "noise") == f"banned {peer}"
    (shown,) = (one for one in pool.call("GET", "/v1/nodes")[2]["data"] if one["peer"] == peer)
    assert (shown["name"], shown["state"]) == ("red-one", "refused")
    assert shown["reason"].endswith("banned by the pool's owner: noise")
    assert pool.call("POST", "/v1/completions", ASK)[0] == 503
    assert node.process.wait(20) == 1, "it does not come back by itself"
    assert "banned by the pool's owner: noise" in node.log.read_text()
    assert "banned by the pool's owner: noise" in refused_join(folder, f"{where}#{invite}")

    assert owner("allow", peer) == f"allowed {peer}"
    begun(start_join(folder, where))
    assert pool.call("POST", "/v1/completions", ASK)[2]["usage"]["nodes"] == [peer]
