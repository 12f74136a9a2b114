"""A paid stream from a real model survives its node, its engine, and the last node of the pool."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parhelion.testing.processes import UNTIMED, Running, start_join, start_pool
from tests.acceptance.members import answer

SIZE = 90
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": SIZE,
    "temperature": 0.8,
    "seed": 5,
    "logit_bias": {"2": -100, "0": -100},
}
"""The bias keeps end-of-text away, so that the stream lasts until something is killed."""

RATE_MICRO = 4


class Nodes:
    """Real nodes of one paid pool."""

    def __init__(self, pool: Running, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.running: dict[str, Running] = {}

    def add(self, name: str) -> Running:
        node = start_join(self.folder / name, self.pool.api.removeprefix("http://"))
        self.running[node.ready["node"]] = node
        return node

    def busy(self) -> Running:
        """The one node with work."""
        _status, _headers, body = self.pool.call("GET", "/v1/nodes")
        (peer,) = [node["peer"] for node in body["data"] if node["slots_busy"]]
        return self.running[peer]

    def close(self) -> None:
        for node in self.running.values():
            for child in psutil.Process(node.process.pid).children() if is_alive(node) else []:
                child.send_signal(signal.SIGCONT)
            node.kill()


def is_alive(node: Running) -> bool:
    return node.process.poll() is None


def engine_of(node: Running) -> psutil.Process:
    for child in psutil.Process(node.process.pid).children(recursive=True):
        if "parhelion.engines.host" in child.cmdline():
            return child
    raise AssertionError("the node has no engine host")


def kill_the_node(node: Running) -> None:
    node.process.kill()


def kill_its_engine(node: Running) -> None:
    engine_of(node).kill()


def hang_its_engine(node: Running) -> None:
    engine_of(node).suspend()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("survival")
    pool = start_pool(folder / "pool", env=UNTIMED)
    made = Nodes(pool, folder)
    yield made
    made.close()
    assert pool.stop() == 0


def told(
    pool: Running, body: dict[str, Any], at: int = 0, then: Callable[[], None] = lambda: None
) -> tuple[str, dict[str, Any]]:
    """The whole text and the usage of a stream; `then` happens at its event number `at`."""
    seen = answer(pool, body, at, then)
    return seen.text, seen.usage


@pytest.mark.parametrize("fault", [kill_its_engine, hang_its_engine, kill_the_node])
def test_the_text_goes_on_as_if_nothing_had_been(
    nodes: Nodes, fault: Callable[[Running], None]
) -> None:
    while sum(is_alive(node) for node in nodes.running.values()) < 2:
        nodes.add(f"node{len(nodes.running)}")
    pool = nodes.pool
    whole, _usage = told(pool, BODY)
    at = random.randrange(5, SIZE // 2)
    text, usage = told(pool, BODY, at, lambda: fault(nodes.busy()))
    assert text == whole, f"cut at event {at}"
    assert (usage["completion_tokens"], usage["migrations"], usage["route"]) == (SIZE, 1, "pool")
    assert int(usage["cost"]) == (usage["prompt_tokens"] + SIZE) * RATE_MICRO
    assert len(usage["nodes"]) == 2


@pytest.mark.slow
def test_an_engine_that_stands_still_while_idle_costs_the_next_prompt_nothing(
    tmp_path: Path, smollm2: Path
) -> None:
    nodes = Nodes(start_pool(tmp_path / "pool", env=UNTIMED), tmp_path)
    try:
        node = nodes.add("alone")
        began_s = time.monotonic()
        text, _usage = told(nodes.pool, BODY)
        usual_s = time.monotonic() - began_s
        engine = engine_of(node)
        hang_its_engine(node)
        stopped_s = time.monotonic()
        states = [until_changed(nodes.pool, "ready"), until_changed(nodes.pool, "failed")]
        assert 3.5 < time.monotonic() - stopped_s < 12.0
        # Out of dispatch with the reason, and back by itself.
        assert [state for state, _reason in states] == ["failed", "ready"]
        assert "idle, and no sign of life for" in states[0][1]
        assert not engine.is_running()
        asked_s = time.monotonic()
        again, usage = told(nodes.pool, BODY)
        assert (again, usage["migrations"]) == (text, 0)
        # How long an answer takes is the machine's; nothing is waited for beside it.
        assert time.monotonic() - asked_s < max(6.0, 3 * usual_s)
    finally:
        nodes.close()
        assert nodes.pool.stop() == 0


def until_changed(pool: Running, state: str) -> tuple[str, str]:
    """The one node's next state after this one, and the reason shown."""
    end_s = time.monotonic() + 15
    while True:
        (node,) = pool.call("GET", "/v1/nodes")[2]["data"]
        if node["state"] != state:
            return node["state"], node["reason"] or ""
        assert time.monotonic() < end_s, f"still {state}"
        time.sleep(0.01)


@pytest.mark.slow
def test_one_node_alone_brings_its_engine_back_and_goes_on(tmp_path: Path, smollm2: Path) -> None:
    pool = start_pool(tmp_path / "pool", env=UNTIMED)
    nodes = Nodes(pool, tmp_path)
    try:
        node = nodes.add("only")
        whole, _usage = told(pool, BODY)
        text, usage = told(pool, BODY, 20, lambda: engine_of(node).kill())
        assert text == whole
        assert (usage["migrations"], usage["nodes"]) == (1, [node.ready["node"]])
        assert int(usage["cost"]) == (usage["prompt_tokens"] + SIZE) * RATE_MICRO
    finally:
        nodes.close()
        assert pool.stop() == 0


@pytest.mark.slow
def test_the_fallback_serves_without_any_node_and_when_the_last_one_dies(
    tmp_path: Path, smollm2: Path
) -> None:
    own = {**UNTIMED, "PARHELION_FALLBACK_MODELS": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    pool = start_pool(tmp_path / "pool", env=own)
    nodes = Nodes(pool, tmp_path)
    try:
        wait_ready(pool)
        whole, usage = told(pool, BODY)
        assert (usage["route"], usage["migrations"]) == ("fallback", 0)
        node = nodes.add("only")
        # A stranger is compared with the fallback first.
        until_state(pool, node.ready["node"], "ready")
        assert told(pool, BODY)[1]["route"] == "pool"
        text, usage = told(pool, BODY, 20, lambda: node.process.kill())
        assert text == whole
        assert (usage["route"], usage["migrations"]) == ("fallback", 1)
        assert usage["nodes"][0] == node.ready["node"]
        status, _headers, health = pool.call("GET", "/health")
        assert (status, health["nodes"]) == (200, 0)
    finally:
        nodes.close()
        assert pool.stop() == 0


def until_state(pool: Running, peer: str, state: str, deadline_s: float = 60.0) -> dict[str, Any]:
    end_s = time.monotonic() + deadline_s
    while True:
        _status, _headers, body = pool.call("GET", "/v1/nodes")
        found = {node["peer"]: node for node in body["data"]}.get(peer, {})
        if found.get("state") == state:
            return found
        assert time.monotonic() < end_s, found
        time.sleep(0.05)


def wait_ready(pool: Running, deadline_s: float = 60.0) -> None:
    end_s = time.monotonic() + deadline_s
    while pool.call("GET", "/health")[0] != 200:
        assert time.monotonic() < end_s, "the fallback did not come up"
        time.sleep(0.05)
