"""What `/v1/nodes`, `/v1/nodes/stream` and `parhelion nodes` tell of nodes: what is, with its
reason, under names that stay."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.identity import node_name
from parhelion.testing.processes import UNTIMED, Running, start, start_echo, start_join, start_run

Begun = Callable[[Running], Running]

SOON_S = 10.0
BACK_LIMIT_S = 5.0 * 5
"""Nodes are back five seconds after their coordinator; asserted with a factor 5."""

SILENT_LIMIT_S = 6.0 * 3
"""A node is gone after six seconds of silence; a factor for a busy machine."""


class Feed:
    """One connection to /v1/nodes/stream."""

    def __init__(self, pool: Running, last_id: str | None = None) -> None:
        where = urlsplit(pool.api)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._connection.request("GET", "/v1/nodes/stream", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self.last_id = last_id

    def next(self) -> dict[str, Any]:
        for line in self._response:
            if line.startswith(b"id: "):
                self.last_id = line[4:].strip().decode()
            elif line.startswith(b"data: "):
                return json.loads(line[6:])
        raise AssertionError("the stream ended")

    def until(self, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event that has a node like this."""
        while True:
            event = self.next()
            if any(seen(node) for node in event["nodes"]):
                return event

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """A private pool without a node of its own."""
    pool = start_run(tmp_path_factory.mktemp("nodes") / "pool", 1, env=UNTIMED)
    yield pool
    assert pool.stop() == 0


def address(pool: Running) -> str:
    return pool.api.removeprefix("http://")


def test_the_stream_of_nodes_tells_a_death_and_goes_on_where_it_was_cut(
    shared: Running, begun: Begun, tmp_path: Path
) -> None:
    feed = Feed(shared)
    snapshot = feed.next()
    assert snapshot["type"] == "snapshot"
    assert {node["state"] for node in snapshot["nodes"]} <= {"gone"}
    node = begun(
        start_echo(tmp_path, address(shared), "--name", "mortal", tokens_per_s=80.0, slots=4)
    )
    peer = node.ready["peer"]
    event = feed.until(lambda seen: (seen["peer"], seen["state"]) == (peer, "ready"))
    (shown,) = (seen for seen in event["nodes"] if seen["peer"] == peer)
    assert shown["name"] == "mortal" and len(shown["models"]) == 1
    assert shown["tokens_per_s"] is None and shown["success_rate"] is None
    assert (shown["slots"], shown["slots_busy"], shown["samples"]) == (4, 0, 0)
    assert "device" in shown["reported"] and "tokens_per_s" not in shown["reported"]
    feed.close()

    killed_s = time.monotonic()
    node.kill()
    time.sleep(1.0)
    feed = Feed(shared, feed.last_id)
    event = feed.until(lambda seen: (seen["peer"], seen["state"]) == (peer, "gone"))
    assert event["type"] == "change", "the reader was only away: no snapshot"
    assert next(seen["reason"] for seen in event["nodes"] if seen["peer"] == peer)
    assert time.monotonic() - killed_s < SOON_S
    feed.close()


class Story(threading.Thread):
    """All that /v1/nodes/stream says of one node, in order."""

    def __init__(self, feed: Feed, peer: str) -> None:
        super().__init__(daemon=True)
        self._feed, self._peer = feed, peer
        self.seen: list[dict[str, Any]] = []

    def run(self) -> None:
        try:
            while True:
                event = self._feed.next()
                self.seen += [node for node in event["nodes"] if node["peer"] == self._peer]
        except (AssertionError, AttributeError, OSError, ValueError):
            return  # The test has what it wanted, and closed the connection under the reader.

    def until(self, state: str, deadline_s: float, after: int = 0, **more: Any) -> int:
        """The number of the first view after that one which is in this state, and so."""
        end_s = time.monotonic() + deadline_s
        while True:
            for number, node in enumerate(self.seen):
                if number > after and {"state": state, **more}.items() <= node.items():
                    return number
            assert time.monotonic() < end_s, (state, self.seen[after:])
            time.sleep(0.05)


@pytest.mark.slow
def test_each_state_of_a_node_is_told_with_its_reason_while_a_stream_goes_through_it(
    shared: Running, begun: Begun, tmp_path: Path
) -> None:
    node = begun(start_echo(tmp_path, address(shared), tokens_per_s=20.0, slots=4))
    peer = node.ready["peer"]
    feed = Feed(shared)
    story = Story(feed, peer)
    story.start()
    ready = story.until("ready", SOON_S, after=-1, slots_busy=0)

    body = {"prompt": "a long one", "max_tokens": 120}
    events: list[Any] = []
    client = threading.Thread(target=lambda: events.extend(shared.stream("/v1/completions", body)))
    client.start()
    busy = story.until("ready", SOON_S, ready, slots_busy=1)
    assert story.seen[busy]["utilisation"] == 0.25

    node.process.send_signal(signal.SIGSTOP)
    suspect = story.until("suspect", SILENT_LIMIT_S, busy)
    assert "silent for" in story.seen[suspect]["reason"]
    gone = story.until("gone", SILENT_LIMIT_S, suspect)
    assert "silent for" in story.seen[gone]["reason"] and story.seen[gone]["left_at_ms"]
    node.process.send_signal(signal.SIGCONT)
    back = story.until("ready", SILENT_LIMIT_S, gone, slots_busy=1)
    # What it lost is held against it, and its sample says how much that means.
    assert (story.seen[back]["success_rate"], story.seen[back]["samples"]) == (0.0, 1)
    node.process.send_signal(signal.SIGTERM)
    draining = story.until("draining", SOON_S, back)
    assert story.seen[draining]["reason"]
    client.join(60)
    assert events[-1] == "[DONE]" and events[-2]["usage"]["migrations"] == 1
    left = story.until("gone", SOON_S, draining)
    assert story.seen[left]["success_rate"] == 0.5 and story.seen[left]["samples"] == 2
    assert 16.0 < story.seen[left]["tokens_per_s"] < 22.0, "as fast as it was"
    feed.close()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def names(pool: Running) -> dict[str, str]:
    """The names of the nodes that are ready, by peer id, as the command and the API show them."""
    listed = pool.call("GET", "/v1/nodes")[2]
    command = (sys.executable, "-m", "parhelion", "nodes", "--json", "--api", pool.api)
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    by_command, by_api = (
        {one["peer"]: one["name"] for one in told["data"] if one["state"] == "ready"}
        for told in (json.loads(said.stdout), listed)
    )
    assert by_command == by_api
    return by_api


def served_by(pool: Running, name: str) -> list[str]:
    body = {"prompt": "hello", "max_tokens": 4, "provider": {"only": [name]}}
    status, _headers, told = pool.call("POST", "/v1/completions", body)
    assert status == 200, told
    return told["usage"]["nodes"]


@pytest.mark.slow
def test_names_outlive_restarts_of_nodes_and_of_the_coordinator_and_a_reader_finds_them_again(
    begun: Begun, tmp_path: Path, smollm2: Path
) -> None:
    port, data = free_port(), tmp_path / "pool"
    data.mkdir()
    where = f"127.0.0.1:{port}"
    run = ["run", "-n", "1", "--json", "--data", str(data), "--api-port", port, "--web-port", "0"]

    def both() -> list[Running]:
        return [
            begun(start_join(tmp_path / "chosen", where, "--name", "red-one")),
            begun(start_echo(tmp_path / "made", where, tokens_per_s=80.0, slots=4)),
        ]

    pool = begun(start(run, data / "log"))
    nodes = both()
    chosen, made = nodes[0].ready["node"], nodes[1].ready["peer"]
    as_named = {chosen: "red-one", made: node_name(made)}
    assert names(pool) == as_named
    feed = Feed(pool)
    feed.next()
    first_id = feed.last_id
    feed.close()

    assert nodes[0].stop() == 0
    nodes[1].kill()
    feed = Feed(pool, feed.last_id)
    left: dict[str, str] = {}
    while set(left) != set(as_named):
        event = feed.next()
        assert event["type"] == "change", "the reader was only away: no snapshot"
        left |= {seen["peer"]: seen["name"] for seen in event["nodes"] if seen["state"] == "gone"}
    assert left == as_named, "who left keeps its name"
    nodes = both()
    assert names(pool) == as_named
    for peer, name in as_named.items():
        assert served_by(pool, name) == [peer]

    feed.close()
    pool.kill()
    pool = begun(start(run, data / "log"))
    began_s = time.monotonic()
    while pool.call("GET", "/health")[2]["nodes"] < 2:
        assert time.monotonic() - began_s < BACK_LIMIT_S
        time.sleep(0.05)
    assert names(pool) == as_named
    for peer, name in as_named.items():
        assert served_by(pool, name) == [peer]
    # The old coordinator's ids mean nothing to this one: its reader gets everything anew.
    feed = Feed(pool, first_id)
    snapshot = feed.next()
    assert snapshot["type"] == "snapshot"
    assert {seen["peer"]: seen["name"] for seen in snapshot["nodes"]} == as_named
    feed.close()
