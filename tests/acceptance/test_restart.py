"""The coordinator is killed under load: who was cut may ask again, and pays once."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

from parhelion.testing.processes import Running, start_echo, start_pool

STREAMS = 12
SIZE = 150
RATE_MICRO = 4
RECONNECT_LIMIT_S = 5.0
"""Nodes are back so soon after the coordinator's return; asserted with a factor."""


def body(number: int) -> dict[str, Any]:
    return {"prompt": f"story {number}", "max_tokens": SIZE, "seed": number}


class Client(threading.Thread):
    """One stream with an Idempotency-Key, as far as it gets."""

    def __init__(self, pool: Running, number: int) -> None:
        super().__init__(daemon=True)
        self.pool, self.number = pool, number
        self.text, self.usage = "", {}
        self.broke = ""

    def run(self) -> None:
        key = {"idempotency-key": f"story-{self.number}"}
        try:
            for event in self.pool.stream("/v1/completions", body(self.number), headers=key):
                if event == "[DONE]":
                    return
                if "error" in event:
                    self.broke = event["error"]["code"]
                    return
                self.text += "".join(one["text"] for one in event["choices"])
                self.usage = event.get("usage") or self.usage
            self.broke = "ended without a word"
        except OSError as error:
            self.broke = type(error).__name__
        except ValueError as error:
            self.broke = f"cut: {error}"


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def names(pool: Running) -> dict[str, str]:
    """The nodes that are ready: their names by peer id."""
    nodes = pool.call("GET", "/v1/nodes")[2]["data"]
    return {node["peer"]: node["name"] for node in nodes if node["state"] == "ready"}


def test_after_a_kill_the_nodes_are_back_and_the_same_keys_go_on_without_a_second_charge(
    tmp_path: Path,
) -> None:
    port, data = free_port(), tmp_path / "pool"
    pool = start_pool(data, "--api-port", port)
    where = f"127.0.0.1:{port}"
    nodes = [
        start_echo(tmp_path / name, where, tokens_per_s=50, slots=16) for name in ("one", "two")
    ]
    try:
        before = int(pool.call("GET", "/v1/credits/balance")[2]["available"])
        known = names(pool)
        clients = [Client(pool, number) for number in range(STREAMS)]
        for client in clients:
            client.start()
        while min(len(client.text) for client in clients) < 100:
            time.sleep(0.01)
        pool.kill()
        for client in clients:
            client.join(30)
            assert client.broke, "a stream that was cut does not look like one that ended"

        pool = start_pool(data, "--api-port", port)
        back_s = time.monotonic()
        while pool.call("GET", "/health")[2]["nodes"] < 2:
            assert time.monotonic() - back_s < RECONNECT_LIMIT_S * 5
            time.sleep(0.02)
        assert names(pool) == known, "each is back, and known as before"
        held = int(pool.call("GET", "/v1/credits/balance")[2]["held"])
        assert held == 0, "what the crash left was settled before the first request"

        again = [Client(pool, number) for number in range(STREAMS)]
        for client in again:
            client.start()
        for client in again:
            client.join(60)
            assert not client.broke, client.broke
        cost = 0
        for first, second in zip(clients, again, strict=True):
            assert second.text.startswith(first.text[:100]), "the same seed, so the same text"
            cost += (second.usage["prompt_tokens"] + SIZE) * RATE_MICRO
        after = int(pool.call("GET", "/v1/credits/balance")[2]["available"])
        assert before - after == cost, "each is paid once, in one part or in two"
    finally:
        for node in nodes:
            node.stop()
        pool.stop()
