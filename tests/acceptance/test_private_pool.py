"""A private pool: `run -n 2` waits for two nodes, needs no key, and answers the guide's curl."""

from __future__ import annotations

import time
from pathlib import Path

from parhelion.testing.processes import Running, start_echo, start_join, start_run

GUIDE_CURL = {
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "hello"}],
    "stream": False,
}
"""The Parallax guide's request: no model, no key."""


def health(pool: Running) -> tuple[int, dict[str, object]]:
    status, _headers, body = pool.call("GET", "/health")
    return status, body


def test_health_turns_ready_exactly_at_the_second_join(tmp_path: Path, smollm2: Path) -> None:
    pool = start_run(tmp_path / "pool", 2)
    nodes: list[Running] = []
    try:
        assert "key" not in pool.ready or pool.ready["key"] is None
        status, body = health(pool)
        assert (status, body["status"], body["nodes"], body["need"]) == (503, "waiting", 0, 2)
        assert pool.call("POST", "/v1/chat/completions", GUIDE_CURL)[0] == 503

        address = f"{pool.api.removeprefix('http://')}"
        nodes.append(start_echo(tmp_path / "one", address, tokens_per_s=100, slots=4))
        status, body = health(pool)
        assert (status, body["status"], body["nodes"]) == (503, "waiting", 1)

        nodes.append(start_join(tmp_path / "two", address))
        status, body = health(pool)
        assert (status, body["status"], body["nodes"]) == (200, "ready", 2)

        # Greedily: by chance the real model may say nothing but its end of text.
        ask = {**GUIDE_CURL, "temperature": 0}
        status, _headers, answer = pool.call("POST", "/v1/chat/completions", ask)
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["cost"] == "0"
    finally:
        for node in nodes:
            assert node.stop() == 0
        assert pool.stop() == 0


def test_a_node_that_is_killed_is_out_at_once_and_the_pool_says_so(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_run(tmp_path / "pool", 1)
    try:
        address = pool.api.removeprefix("http://")
        node = start_echo(tmp_path / "echo", address, tokens_per_s=100, slots=4)
        assert health(pool)[0] == 200
        node.kill()
        deadline_s = time.monotonic() + 0.1 * 5
        while health(pool)[0] == 200:
            assert time.monotonic() < deadline_s, "0.1 s on a closed socket, with a factor 5"
            time.sleep(0.01)
    finally:
        assert pool.stop() == 0
