"""Things are killed under a paid stream; afterwards the books are exact and prompts are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.coordinator import MIGRATIONS
from parhelion.ledger import Ledger, Shares
from parhelion.store import Store
from parhelion.testing.processes import Running, start_up
from parhelion.words import AssetClass

LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": 400,
    "temperature": 0.7,
    "seed": 5,
    "logit_bias": {"2": -100, "0": -100},
}
"""The bias keeps end-of-text away, so that the stream lasts until it is killed."""

RATE_MICRO_PER_TOKEN = 4


@pytest.fixture
def mortal(tmp_path: Path, smollm2: Path) -> Iterator[Running]:
    """A pool of its own for a test that kills parts of it."""
    running = start_up(tmp_path / "data")
    yield running
    running.stop()


def part(pool: Running, module: str) -> psutil.Process:
    """The child process that runs this module."""
    for child in psutil.Process(pool.process.pid).children(recursive=True):
        if module in child.cmdline():
            return child
    raise AssertionError(f"no {module} under {pool.process.pid}")


def balance(pool: Running) -> tuple[int, int]:
    _status, _headers, body = pool.call("GET", "/v1/credits/balance")
    return int(body["available"]), int(body["held"])


def imbalances(data: Path) -> tuple[str, ...]:
    """What the ledger's own audit finds in a stopped pool's file."""

    async def audit() -> tuple[str, ...]:
        clock = SystemClock()
        store = await Store.open(data / "parhelion.db", MIGRATIONS, AssetClass.LOCAL, clock)
        shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
        try:
            ledger = Ledger(store, clock, shares)
            assert await ledger.open_holds() == ()
            return await ledger.audit()
        finally:
            await store.close()

    return asyncio.run(audit())


def ready_again(pool: Running, deadline_s: float) -> None:
    end_s = time.monotonic() + deadline_s
    while pool.call("GET", "/health")[0] != 200:
        assert time.monotonic() < end_s, "the pool did not come back"
        time.sleep(0.05)


def test_a_killed_engine_ends_the_stream_with_an_error_and_bills_what_was_delivered(
    mortal: Running, tmp_path: Path
) -> None:
    before, _held = balance(mortal)
    pieces, error = 0, None
    for event in mortal.stream("/v1/chat/completions", LONG):
        if "error" in event:
            error = event["error"]
            break
        pieces += bool(event["choices"] and event["choices"][0]["delta"].get("content"))
        if pieces == 20:
            part(mortal, "parhelion.engines.host").kill()
    assert error is not None, "a stream never ends quietly"
    assert error["code"] in {"engine_failed", "node_lost"}
    after, held = balance(mortal)
    assert held == 0
    billed_tokens = (before - after) / RATE_MICRO_PER_TOKEN
    assert pieces <= billed_tokens < 400

    ready_again(mortal, 60)
    status, _headers, answer = mortal.call(
        "POST", "/v1/chat/completions", {**LONG, "max_tokens": 8}
    )
    assert status == 200, answer
    assert mortal.stop() == 0
    assert imbalances(tmp_path / "data") == ()


def test_a_killed_tokeniser_host_costs_nobody_a_request(mortal: Running) -> None:
    part(mortal, "parhelion.models.host").kill()
    status, _headers, answer = mortal.call(
        "POST", "/v1/chat/completions", {**LONG, "max_tokens": 4}
    )
    assert status == 200, answer


def test_a_killed_node_is_started_again_and_serves(mortal: Running) -> None:
    part(mortal, "parhelion.bootstrap").kill()
    time.sleep(0.2)
    ready_again(mortal, 60)
    assert mortal.call("POST", "/v1/chat/completions", {**LONG, "max_tokens": 4})[0] == 200


def test_a_killed_coordinator_never_bills_beyond_what_was_delivered(
    mortal: Running, tmp_path: Path
) -> None:
    before, _held = balance(mortal)
    pieces = 0
    stream = mortal.stream("/v1/chat/completions", LONG)
    for event in stream:
        pieces += bool(event["choices"] and event["choices"][0]["delta"].get("content"))
        if pieces == 40:
            children = psutil.Process(mortal.process.pid).children(recursive=True)
            mortal.kill()
            break
    _gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a killed coordinator leaves no process behind"

    again = start_up(tmp_path / "data")
    try:
        after, held = balance(again)
        _status, _headers, history = again.call("GET", "/v1/credits/history")
    finally:
        assert again.stop() == 0
    assert held == 0
    billed_tokens = (before - after) // RATE_MICRO_PER_TOKEN
    assert 0 < billed_tokens <= 40 + 60, "the prompt, and no more ids than were sent"
    assert any(entry["kind"] == "charge" for entry in history["data"])
    assert imbalances(tmp_path / "data") == ()
