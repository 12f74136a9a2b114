"""Dispatch by measurement: work goes where it is finished soonest, as real nodes prove to be.

That p95 beats round-robin and least-connections over five seeds is shown in virtual time
(tests/unit/coordinator/test_dispatch.py, and `make bench`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from parhelion.coordinator.breaker import COOL_S, FAULTS_LIMIT
from parhelion.testing.processes import UNTIMED, Running, start_echo, start_join, start_pool

SLOTS = 4
SPEEDS = (20.0, 40.0, 80.0)
CLIENTS = 3 * SLOTS * len(SPEEDS)
MAX_TOKENS = 10
WARM_UP_S, RUN_S = 1.0, 4.0
NEVER_ENDS = {"0": -100, "2": -100}
"""The model's ends of text."""

ROOMY = {
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_KEY": "1000000",
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_ADDRESS": "1000000",
    "PARHELION_LIMITS_BURST": "100000",
}


async def load(pool: Running) -> Counter[str]:
    """Ids by the peer that made them, after the warm-up, of clients that ask again and again."""
    ids: Counter[str] = Counter()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": MAX_TOKENS}
    began_s = time.monotonic()

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < began_s + WARM_UP_S + RUN_S:
            is_counted = time.monotonic() > began_s + WARM_UP_S
            async with session.post("/v1/chat/completions", json=body) as answer:
                told = await answer.json()
                assert answer.status == 200, told
            if is_counted:
                (peer,) = told["usage"]["nodes"]
                ids[peer] += told["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(
        pool.api,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"authorization": f"Bearer {pool.key}"},
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return ids


def nodes_of(pool: Running) -> dict[str, Any]:
    status, _headers, body = pool.call("GET", "/v1/nodes")
    assert status == 200
    return {node["peer"]: node for node in body["data"]}


@pytest.mark.slow
def test_nodes_of_speed_1_2_4_get_work_1_2_4_and_are_shown_as_fast_as_they_are(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        pool = start_pool(tmp_path / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")

        def join(speed: float) -> Running:
            node = start_echo(tmp_path / f"n{speed:g}", where, tokens_per_s=speed, slots=SLOTS)
            stack.callback(node.kill)
            return node

        with ThreadPoolExecutor() as starting:
            peers = [node.ready["peer"] for node in starting.map(join, SPEEDS)]
        ids = asyncio.run(load(pool))
        shown = nodes_of(pool)
    total = sum(ids.values())
    for peer, speed in zip(peers, SPEEDS, strict=True):
        share = ids[peer] / total / (speed / sum(SPEEDS))
        assert 0.9 <= share <= 1.1, (ids, speed, share)
        assert 0.8 <= shown[peer]["tokens_per_s"] / (SLOTS * speed) <= 1.1
        assert shown[peer]["success_rate"] == 1.0 and shown[peer]["samples"]


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, smollm2: Path
) -> Iterator[tuple[Running, list[Running]]]:
    """A pool that asks nothing of its own accord, and two nodes with a real model."""
    folder = tmp_path_factory.mktemp("two")
    pool = start_pool(folder / "pool", env=UNTIMED)
    where = pool.api.removeprefix("http://")
    with ThreadPoolExecutor() as starting:
        nodes = list(starting.map(lambda name: start_join(folder / name, where), "ab"))
    yield pool, nodes
    for running in (*nodes, pool):
        assert running.stop() == 0


def chat(
    pool: Running, messages: list[dict[str, str]], **more: Any
) -> tuple[dict[str, str], dict[str, Any]]:
    """The answer's turn and its usage."""
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, **more}
    status, _headers, told = pool.call("POST", "/v1/chat/completions", body)
    assert status == 200, told
    return told["choices"][0]["message"], told["usage"]


@pytest.mark.slow
def test_a_conversation_goes_back_to_the_node_that_holds_it(
    two: tuple[Running, list[Running]],
) -> None:
    pool, nodes = two
    peers = [node.ready["node"] for node in nodes]
    talks: list[tuple[str, list[dict[str, str]]]] = []
    for number, peer in enumerate(peers * 3):
        story = f"Story {number}. " + "There was an island, and a ship, and a storm. " * 14
        turns = [{"role": "user", "content": story}]
        turn, usage = chat(pool, turns, provider={"only": [peer]})
        assert usage["prompt_tokens_details"]["cached_tokens"] < 64, "of the template only"
        talks.append((peer, [*turns, turn, {"role": "user", "content": "And then?"}]))
    # Of its own accord, in an order that no turn-taking would give.
    for peer, turns in sorted(talks, key=lambda talk: talk[0]):
        _turn, usage = chat(pool, turns)
        assert usage["nodes"] == [peer]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 128, "of some 170"


def engine_of(node: Running) -> psutil.Process:
    for child in psutil.Process(node.process.pid).children(recursive=True):
        if "parhelion.engines.host" in child.cmdline():
            return child
    raise AssertionError("the node has no engine host")


def served_by(pool: Running, first: str, number: int, then: Callable[[], None]) -> list[str]:
    """The nodes of one answer that may begin at `first`; `then` happens in its middle."""
    body = {
        "prompt": f"Tale {number}:", "max_tokens": 30, "logit_bias": NEVER_ENDS,
        "provider": {"order": [first]},
    }  # fmt: skip
    usage: dict[str, Any] = {}
    for seen, event in enumerate(pool.stream("/v1/completions", body)):
        if seen == 5:
            then()
        if event != "[DONE]":
            assert "error" not in event, event
            usage = event.get("usage") or usage
    assert usage["completion_tokens"] == 30
    return usage["nodes"]


@pytest.mark.slow
def test_a_node_whose_engine_keeps_failing_gets_nothing_while_it_is_idle_and_then_comes_back(
    two: tuple[Running, list[Running]],
) -> None:
    pool, (bad, good) = two
    mine, other = bad.ready["node"], good.ready["node"]
    before = nodes_of(pool)[mine]
    failed_s = 0.0
    for number in range(int(FAULTS_LIMIT)):
        until_idle(pool, mine)
        failed_s = time.monotonic()
        # Every one of them is finished by the other node: no client notices.
        assert served_by(pool, mine, number, engine_of(bad).kill) == [mine, other]
    until_idle(pool, mine)
    idle_s = time.monotonic()
    seen = nodes_of(pool)[mine]
    samples = before["samples"] + int(FAULTS_LIMIT)
    assert seen["samples"] == samples and seen["failed"] == before["failed"] + FAULTS_LIMIT
    good_jobs = round((before["success_rate"] or 0.0) * before["samples"])
    assert seen["success_rate"] == pytest.approx(good_jobs / samples)
    shunned, number = 0, 100
    while served_by(pool, mine, number, lambda: None) == [other]:
        # It is there, idle, asked for first, and its engine runs.
        node = nodes_of(pool)[mine]
        shunned += (node["state"], node["slots_busy"]) == ("ready", 0)
        number += 1
        assert time.monotonic() - failed_s < 5 * COOL_S, "it is never tried again"
    assert time.monotonic() - failed_s >= COOL_S
    assert shunned or idle_s - failed_s > COOL_S, "only an engine that was away so long is excused"
    back = nodes_of(pool)[mine]
    assert back["samples"] == samples + 1
    assert back["success_rate"] == pytest.approx((good_jobs + 1) / (samples + 1))
    assert served_by(pool, mine, 200, lambda: None) == [mine], "and gets work as before"


def until_idle(pool: Running, peer: str) -> None:
    """Wait until this node's engine is there and has no work."""
    end_s = time.monotonic() + 60
    while (node := nodes_of(pool)[peer])["state"] != "ready" or node["slots_busy"]:
        assert time.monotonic() < end_s, node
        time.sleep(0.02)
