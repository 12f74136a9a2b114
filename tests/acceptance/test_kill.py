"""Things are killed under a paid stream; afterwards the books are exact and prompts are served."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.ground import MIGRATIONS
from parhelion.ledger import Ledger, Shares
from parhelion.proof import verify
from parhelion.store import Store
from parhelion.testing.processes import Running, start_up
from parhelion.words import AssetClass

LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": 3000,
    "temperature": 0.7,
    "seed": 5,
    "logit_bias": {"2": -100, "0": -100},
}
"""The bias keeps end-of-text away, and it is long: on a fast machine too the stream lasts until it
is killed."""

JOURNAL_S = 0.25
"""The longest that accepted ids are not journalled (DESIGN 6)."""

OTHER = [{"role": "user", "content": "And a short one about the moon."}]

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


def node_of(pool: Running) -> dict[str, Any]:
    """The pool's one node as it sees it; empty while there is none."""
    nodes = pool.call("GET", "/v1/nodes")[2]["data"]
    return nodes[0] if nodes else {}


@pytest.mark.slow
def test_an_engine_that_dies_again_and_again_ends_the_stream_and_bills_what_was_delivered(
    mortal: Running, tmp_path: Path
) -> None:
    before, _held = balance(mortal)
    pieces, text, id, error, killed = 0, "", "", None, set[int]()
    for event in mortal.stream("/v1/chat/completions", LONG):
        if "error" in event:
            error = event["error"]
            break
        id = event["id"]
        piece = event["choices"] and event["choices"][0]["delta"].get("content")
        text, pieces = text + (piece or ""), pieces + bool(piece)
        engine = part(mortal, "parhelion.engines.host")
        # Each after its first token: a new engine dies before it has shown that it can live.
        if pieces >= 20 and piece and engine.pid not in killed:
            killed.add(engine.pid)
            engine.kill()
    assert error is not None, "a stream never ends quietly"
    assert error["code"] == "poison_request", "as far as anybody can tell, it is the request"
    assert len(killed) == 2
    after, held = balance(mortal)
    assert held == 0
    path = f"/v1/receipts/{id.replace('chatcmpl-', 'rcpt_')}?evidence=1"
    _status, _headers, opened = mortal.call("GET", path)
    receipt, evidence = opened["receipt"], opened["evidence"]
    # The ids are bound to the text, and the text is what came: not one more was billed.
    assert evidence["text"] == text
    said = json.dumps(receipt).encode(), json.dumps(evidence).encode()
    assert {check.state for check in verify(*said, mortal.ready["coordinator"])} == {"ok"}
    shown_ids = receipt["output_ids"] - receipt["silent_ids"]
    assert len(evidence["output_ids"]) == receipt["output_ids"]
    assert pieces <= receipt["completion_tokens"] == shown_ids < LONG["max_tokens"]
    billed_tokens = receipt["prompt_tokens"] + receipt["completion_tokens"]
    assert before - after == int(receipt["cost_micro"]) == billed_tokens * RATE_MICRO_PER_TOKEN

    ready_again(mortal, 60)
    assert mortal.call("POST", "/v1/chat/completions", LONG)[0] == 400, "refused for an hour"
    ask = {**LONG, "max_tokens": 8, "messages": OTHER}
    status, _headers, answer = mortal.call("POST", "/v1/chat/completions", ask)
    assert status == 200, answer
    assert mortal.stop() == 0
    assert imbalances(tmp_path / "data") == ()


def test_a_killed_tokeniser_host_costs_nobody_a_request(mortal: Running) -> None:
    part(mortal, "parhelion.models.host").kill()
    status, _headers, answer = mortal.call(
        "POST", "/v1/chat/completions", {**LONG, "max_tokens": 4}
    )
    assert status == 200, answer


@pytest.mark.parametrize(
    "ended",
    [psutil.Process.kill, pytest.param(psutil.Process.suspend, marks=pytest.mark.slow)],
    ids=["killed", "standing still"],
)
def test_an_ended_node_is_started_again_and_serves(
    ended: Callable[[psutil.Process], None], mortal: Running
) -> None:
    joined_ms = node_of(mortal)["connected_at_ms"]
    ended(part(mortal, "parhelion.bootstrap"))
    end_s = time.monotonic() + 60
    while not (node := node_of(mortal)) or node["connected_at_ms"] == joined_ms:
        assert time.monotonic() < end_s, "the node did not come back"
        time.sleep(0.05)
    ready_again(mortal, 60)
    assert mortal.call("POST", "/v1/chat/completions", {**LONG, "max_tokens": 4})[0] == 200


def hold_row(data: Path) -> dict[str, Any]:
    """The one hold that cost something, or may, as the database has it."""
    with contextlib.closing(sqlite3.connect(f"file:{data}/parhelion.db?mode=ro", uri=True)) as file:
        file.row_factory = sqlite3.Row
        (row,) = file.execute("SELECT * FROM holds WHERE state = 'held' OR reason = 'restart'")
        return dict(row)


def test_a_killed_coordinator_never_bills_beyond_what_was_delivered(
    mortal: Running, tmp_path: Path
) -> None:
    before, _held = balance(mortal)
    text, children, kill_at_s = "", [], 0.0
    # What went out before the kill is read to its end: that is what was delivered.
    with contextlib.suppress(http.client.HTTPException, OSError):
        for event in mortal.stream("/v1/chat/completions", LONG):
            piece = event["choices"] and event["choices"][0]["delta"].get("content")
            text += piece or ""
            kill_at_s = kill_at_s or (time.monotonic() + 2 * JOURNAL_S if piece else 0.0)
            if kill_at_s and time.monotonic() > kill_at_s and not children:
                children = psutil.Process(mortal.process.pid).children(recursive=True)
                mortal.kill()
    assert children
    _gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a killed coordinator leaves no process behind"
    journalled = hold_row(tmp_path / "data")
    assert (journalled["state"], journalled["cost_micro"]) == ("held", 0)

    again = start_up(tmp_path / "data")
    try:
        after, held = balance(again)
        ask = {**LONG, "max_tokens": 1}
        prompt_tokens = again.call("POST", "/v1/chat/completions", ask)[2]["usage"]["prompt_tokens"]
        ask["max_tokens"] = journalled["accepted_ids"]
        assert ask["max_tokens"] > 0, "half a second and more was journalled of the answer"
        # The same seed says the same: so long is a text of as many ids as were billed.
        told = again.call("POST", "/v1/chat/completions", ask)[2]["choices"][0]["message"]
        _status, _headers, explained = again.call(
            "GET", f"/v1/receipts/{journalled['request'].replace('req_', 'rcpt_')}/explain"
        )
    finally:
        assert again.stop() == 0
    assert held == 0
    assert text.startswith(told["content"].rstrip("\ufffd")), "no id is billed that was not sent"
    # Exactly what the journal had when the process died: to the base unit.
    closed = hold_row(tmp_path / "data")
    assert (closed["state"], closed["reason"]) == ("posted", "restart")
    same = ("request", "prompt_tokens", "completion_tokens", "accepted_ids", "amount_micro")
    assert [closed[name] for name in same] == [journalled[name] for name in same]
    assert closed["prompt_tokens"] == prompt_tokens
    billed_tokens = prompt_tokens + journalled["completion_tokens"]
    assert before - after == closed["cost_micro"] == billed_tokens * RATE_MICRO_PER_TOKEN
    assert journalled["completion_tokens"] <= journalled["accepted_ids"]
    # No receipt could be signed, and the one who paid can have it explained all the same.
    assert explained["receipt"] is None
    assert explained["proof"].startswith("none: the coordinator could not end this request")
    assert explained["source"][0].startswith("grant of 10.000000 PRLX.local")
    assert explained["cost"].endswith("(restart)")
    assert imbalances(tmp_path / "data") == ()
