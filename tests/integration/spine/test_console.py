"""The console of a real pool, and a set-up that outlives its process."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.processes import UNTIMED, Running, start_echo, start_run

WAIT_S = 60.0


class Watching:
    """One connection to /v1/console/stream."""

    def __init__(self, pool: Running) -> None:
        where = urlsplit(pool.api)
        self._wire = http.client.HTTPConnection(where.hostname or "", where.port, timeout=WAIT_S)
        self._wire.request("GET", "/v1/console/stream")
        self._response = self._wire.getresponse()
        self.status = self._response.status

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._response:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def close(self) -> None:
        self._wire.close()


def admin_of(data: Path) -> str:
    return (data / "admin.key").read_text().strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_console_shows_an_answer_while_it_runs_and_figures_when_it_ended(
    smollm2: Path, tmp_path: Path
) -> None:
    pool = start_run(tmp_path / "pool", 1, env=UNTIMED)
    address = pool.api.removeprefix("http://")
    node = start_echo(tmp_path / "echo", address, tokens_per_s=40, slots=4)
    try:
        console, other = Watching(pool), Watching(pool)
        # Never read: it must hold up nobody, and be forgotten when it hangs up.
        first = next(iter(console))
        assert first["type"] == "console" and first["streaming"] == []
        prompt = {"prompt": "Tell me a secret.", "max_tokens": 200}
        answer = pool.stream("/v1/completions", prompt)
        begun = [next(answer) for _ in range(3)]
        running = next(each for each in console if each["streaming"])
        (stream,) = running["streaming"]
        (served,) = pool.call("GET", "/v1/nodes")[2]["data"]
        assert stream["nodes"] == [served["name"]] and running["running"] == 1
        text = json.dumps(running)
        assert begun[0]["id"] not in text and begun[0]["id"].split("-")[1] not in text
        later = next(each for each in console if each["streaming"][0]["tokens_per_s"])
        assert 4 < later["streaming"][0]["tokens_per_s"] < 400, "an echo of 40 a second"
        for _ in answer:
            pass
        ended = next(each for each in console if each["requests_per_s"])
        assert ended["tokens_per_s"] > 0 and ended["ttft_p50_s"] > 0
        other.close()
        console.close()
        page = pool.call("GET", f"/v1/nodes/{served['peer']}", key=admin_of(tmp_path / "pool"))[2]
        assert page["receipts"][0]["completion_tokens"] > 0 and page["earnings"] is not None
        assert page["history"][-1]["state"] == "ready"
        assert pool.call("GET", f"/v1/nodes/{served['peer']}", key="")[2]["receipts"] is None
    finally:
        assert node.stop() == 0
        assert pool.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_set_up_outlives_a_restart_until_the_command_says_otherwise(
    smollm2: Path, tmp_path: Path
) -> None:
    data = tmp_path / "pool"
    pool = start_run(data, 1)
    admin = admin_of(data)
    before = pool.call("GET", "/v1/setup", key=admin)[2]
    assert (before["nodes_wanted"], before["private"], before["paid"]) == (1, True, False)
    assert before["join"].startswith("parhelion join -s '") and before["peer"] in before["join"]
    assert pool.call("GET", "/v1/setup", key="")[2]["join"] is None
    wanted = {"model": before["model"], "nodes": 4, "private": False}
    status, _headers, body = pool.call("PUT", "/v1/setup", wanted, key=admin)
    assert (status, body["nodes_wanted"], body["private"]) == (200, 4, False), body
    assert int(body["rates"][0]["prompt"]) > 0, "it costs something from now on"
    assert pool.call("GET", "/health", key="")[2]["need"] == 4
    assert pool.stop() == 0
    kept = data / "setup.json"
    assert os.stat(kept).st_mode & 0o777 == 0o600

    again = start_run(data, 1)
    after = again.call("GET", "/v1/setup", key=admin)[2]
    assert (after["nodes_wanted"], after["private"]) == (4, False)
    assert after["rates"] == body["rates"], "and no new version of a rate"
    assert again.stop() == 0

    other = start_run(data, 2)
    assert other.call("GET", "/v1/setup", key=admin)[2]["nodes_wanted"] == 2
    assert other.stop() == 0

    kept.write_text("{")
    with pytest.raises(AssertionError, match=r"setup\.json"):
        start_run(data, 1)
