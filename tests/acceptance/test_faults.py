"""A paid stream survives its node, whichever way the node goes; real processes, echo nodes.

An echo node's next id is a hash of all ids before it, so one that is lost, doubled or changed
alters all that follow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.cable import Cable
from parhelion.testing.processes import UNTIMED, Running, start_echo, start_pool

SIZE = 120
PACE_PER_S = 60.0
BODY: dict[str, Any] = {"prompt": "to be continued", "max_tokens": SIZE, "seed": 7}
RATE_MICRO = 4
OPERATORS_PERCENT = 85
MIGRATIONS_LIMIT = 3

SILENT_LIMIT_S = 6.0
"""After so long without a word a node is gone (DESIGN 4); asserted with a factor."""

RESUME_WAIT_S = 1.0
POOL = {**UNTIMED, "PARHELION_NODES_RESUME_WAIT_S": str(RESUME_WAIT_S)}


class Nodes:
    """Echo nodes of one pool, each behind a cable of its own."""

    def __init__(self, pool: Running, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.port = int(pool.api.rpartition(":")[2])
        self.cables: list[Cable] = []
        self.sound: dict[str, tuple[Running, Cable]] = {}
        self._struck: list[Running] = []

    def have(self, count: int) -> None:
        """See that there are so many which nothing has befallen, and no other."""
        for peer in list(self.sound)[count:]:
            self.strike(peer, kill)
        names = [f"n{len(self.cables) + more}" for more in range(count - len(self.sound))]
        self.cables += [Cable(self.port) for _ in names]
        cables = self.cables[len(self.cables) - len(names) :]
        with ThreadPoolExecutor() as starting:
            nodes = list(starting.map(self._start, names, cables))
        for node, cable in zip(nodes, cables, strict=True):
            self.sound[node.ready["peer"]] = node, cable

    def _start(self, name: str, cable: Cable) -> Running:
        return start_echo(
            self.folder / name, cable.address, "--drain-s", "0.2", tokens_per_s=PACE_PER_S, slots=8
        )

    def strike(self, peer: str, fault: Callable[[Running, Cable], None]) -> str:
        """Let this befall it; its peer id."""
        node, cable = self.sound.pop(peer)
        fault(node, cable)
        self._struck.append(node)
        return peer

    def busy(self) -> str | None:
        """The peer id of the one sound node that has work."""
        _status, _headers, body = self.pool.call("GET", "/v1/nodes")
        peers = [node["peer"] for node in body["data"] if node["slots_busy"]]
        assert len(peers) < 2, "one stream is at one node"
        return next((peer for peer in peers if peer in self.sound), None)

    def close(self) -> None:
        for node in [*self._struck, *(node for node, _cable in self.sound.values())]:
            node.kill()
        for cable in self.cables:
            cable.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("faults")
    pool = start_pool(folder / "pool", env=POOL)
    made = Nodes(pool, folder)
    yield made
    made.close()
    assert pool.stop() == 0


@pytest.fixture(scope="module")
def whole(nodes: Nodes) -> str:
    """The text as it is without any fault."""
    nodes.have(2)
    return "".join(texts(nodes.pool.stream("/v1/completions", BODY)))


def available(pool: Running) -> int:
    """The balance, of which nothing may be held."""
    told = pool.call("GET", "/v1/credits/balance")[2]
    assert told["held"] == "0"
    return int(told["available"])


def kill(node: Running, cable: Cable) -> None:
    node.process.kill()


def pull_the_cable(node: Running, cable: Cable) -> None:
    cable.cut()


def stop_without_a_word(node: Running, cable: Cable) -> None:
    node.process.send_signal(signal.SIGSTOP)


def drain(node: Running, cable: Cable) -> None:
    node.process.send_signal(signal.SIGTERM)


def texts(events: Iterator[Any]) -> Iterator[str]:
    """The text of each event; nothing but what an OpenAI client knows may come."""
    for event in events:
        if event == "[DONE]":
            return
        assert event["object"] == "text_completion" and "error" not in event, event
        for choice in event["choices"]:
            yield choice["text"]


@pytest.mark.parametrize(
    "fault",
    [kill, pull_the_cable, pytest.param(stop_without_a_word, marks=pytest.mark.slow), drain],
)
def test_a_stream_goes_on_from_another_node_with_no_id_lost_or_doubled(
    nodes: Nodes, whole: str, fault: Callable[[Running, Cable], None]
) -> None:
    nodes.have(2)
    pool = nodes.pool
    before = available(pool)
    at = random.Random(os.urandom(8)).randrange(1, SIZE // 2)
    events: list[Any] = []
    stalls: list[float] = []
    moved_from = None
    last_s = time.monotonic()
    for event in pool.stream("/v1/completions", BODY):
        events.append(event)
        stalls.append(time.monotonic() - last_s)
        last_s = time.monotonic()
        if len(events) == at:
            moved_from = nodes.busy()
            assert moved_from is not None
            nodes.strike(moved_from, fault)
    assert "".join(texts(iter(events))) == whole, f"cut at event {at}"
    usage = events[-2]["usage"]
    assert (usage["completion_tokens"], usage["migrations"], usage["route"]) == (SIZE, 1, "pool")
    assert usage["nodes"][0] == moved_from and len(set(usage["nodes"])) == 2
    cost = (usage["prompt_tokens"] + SIZE) * RATE_MICRO
    assert int(usage["cost"]) == cost
    assert max(stalls) < SILENT_LIMIT_S * 2
    assert available(pool) == before - cost
    receipt = receipt_of(pool, usage["receipt"])
    spans = [(one["node"], one["start"], one["to"]) for one in receipt["segments"]]
    assert [span[0] for span in spans] == usage["nodes"]
    assert spans[0][1] == 0 and spans[0][2] == spans[1][1] and spans[1][2] == SIZE
    assert paid(pool, usage["receipt"]) == due(cost, receipt["segments"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "probe"),
    [
        ("litellm", "moved_openai.py"),
        ("openai", "moved_openai.py"),
        ("node", "moved.mjs"),
    ],
)
def test_a_client_library_trips_over_nothing_in_a_stream_that_is_moved(
    nodes: Nodes,
    whole: str,
    client_library: Callable[[str, str], list[str]],
    environment: str,
    probe: str,
) -> None:
    command = client_library(environment, probe)
    nodes.have(2)
    assert nodes.pool.key is not None
    arguments = [f"{nodes.pool.api}/v1", nodes.pool.key, json.dumps(BODY)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *arguments], **pipes) as client:
        try:
            while (peer := nodes.busy()) is None:
                assert client.poll() is None, client.communicate()
                time.sleep(0.02)
            # Some ids are out by then: a whole answer takes two seconds.
            time.sleep(SIZE / PACE_PER_S / 4)
            nodes.strike(peer, kill)
            said, wrong = client.communicate(timeout=60)
        finally:
            client.kill()
    assert client.returncode == 0, wrong
    assert json.loads(said) == {"text": whole, "finish": "length", "migrations": 1}


def receipt_of(pool: Running, id: str) -> dict[str, Any]:
    status, _headers, receipt = pool.call("GET", f"/v1/receipts/{id}")
    assert status == 200, receipt
    return receipt


def paid(pool: Running, receipt: str) -> list[tuple[str, int]]:
    """What each operator was paid for a request, as the one who paid has it explained."""
    told = pool.call("GET", f"/v1/receipts/{receipt}/explain")[2]
    return sorted(
        (leg["credit"], int(leg["amount"]))
        for leg in told["transfers"]
        if leg["role"] == "operator"
    )


def due(cost: int, segments: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The operators' share by output ids delivered, each rounded down."""
    ids = segments[-1]["to"]
    share = cost * OPERATORS_PERCENT // 100
    return sorted(
        (f"node:{one['node']}", share * (one["to"] - one["start"]) // ids) for one in segments
    )


def test_after_three_migrations_a_fourth_loss_is_an_error_and_what_came_is_charged(
    nodes: Nodes, whole: str
) -> None:
    nodes.have(MIGRATIONS_LIMIT + 2)
    pool = nodes.pool
    before = available(pool)
    text, id, killed = "", "", list[str]()
    error: dict[str, Any] | None = None
    for number, event in enumerate(pool.stream("/v1/completions", BODY)):
        assert error is None and event != "[DONE]", "nothing comes after the error"
        if "error" in event:
            error = event["error"]
            continue
        id, text = event["id"], text + "".join(choice["text"] for choice in event["choices"])
        # A few ids from each node; what its predecessor sent may still be on its way.
        if number % 5 == 4 and (peer := nodes.busy()) is not None:
            killed.append(nodes.strike(peer, kill))
    assert error is not None, "a stream never ends quietly"
    assert error["code"] == "node_lost" and error["hint"]
    assert len(set(killed)) == MIGRATIONS_LIMIT + 1
    assert len(nodes.sound) == 1, "one could have gone on, and the limit is the limit"
    assert text and whole.startswith(text) and text != whole
    receipt = receipt_of(pool, id.replace("cmpl-", "rcpt_"))
    segments = receipt["segments"]
    assert [one["node"] for one in segments] == killed
    assert [one["start"] for one in segments[1:]] == [one["to"] for one in segments[:-1]]
    assert receipt["migrations"] == MIGRATIONS_LIMIT
    # Its evidence binds the very ids that are billed to the very text that came.
    evidence = pool.call("GET", f"/v1/receipts/{receipt['id']}?evidence=1")[2]["evidence"]
    assert evidence["text"] == text
    assert len(evidence["output_ids"]) == segments[-1]["to"] == receipt["completion_tokens"]
    cost = (receipt["prompt_tokens"] + receipt["completion_tokens"]) * RATE_MICRO
    assert before - available(pool) == int(receipt["cost_micro"]) == cost
    assert paid(pool, receipt["id"]) == due(cost, segments)


def test_without_any_node_left_a_stream_ends_in_an_error_and_nothing_new_begins(
    nodes: Nodes, whole: str
) -> None:
    nodes.have(1)
    pool = nodes.pool
    before = available(pool)
    text, id, error = "", "", dict[str, Any]()
    killed_s = 0.0
    for number, event in enumerate(pool.stream("/v1/completions", BODY)):
        if "error" in event:
            error = event["error"]
            break
        id, text = event["id"], text + "".join(choice["text"] for choice in event["choices"])
        if number == 10:
            (last,) = nodes.sound
            nodes.strike(last, kill)
            killed_s = time.monotonic()
    assert error["code"] in {"no_node", "node_lost"} and error["hint"]
    assert time.monotonic() - killed_s < RESUME_WAIT_S * 5, "it is waited for, not for ever"
    assert text and whole.startswith(text)
    receipt = receipt_of(pool, id.replace("cmpl-", "rcpt_"))
    cost = (receipt["prompt_tokens"] + receipt["completion_tokens"]) * RATE_MICRO
    assert before - available(pool) == int(receipt["cost_micro"]) == cost
    status, headers, told = pool.call("POST", "/v1/completions", BODY)
    assert (status, told["error"]["code"]) == (503, "no_node") and headers["retry-after"]
    assert available(pool) == before - cost, "who never got a byte pays nothing"
