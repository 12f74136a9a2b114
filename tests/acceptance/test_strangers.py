"""Strangers in a pool that has an engine of its own: the honest serve, liars get no paid work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import Running, start_echo, start_join, start_pool

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ASK: dict[str, Any] = {"prompt": "The sea was", "max_tokens": 8, "temperature": 0}
MEASURED_LIMIT_S = 60.0
"""A probe takes a second or two; a factor for a machine that has other things to do."""


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


@pytest.mark.slow
def test_a_liar_gets_no_paid_work_and_an_honest_stranger_does(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_pool(tmp_path / "pool", env={"PARHELION_FALLBACK_MODELS": MODEL})
    nodes: list[Running] = []
    try:
        end_s = time.monotonic() + MEASURED_LIMIT_S
        while pool.call("GET", "/health")[0] != 200:
            assert time.monotonic() < end_s
            time.sleep(0.05)
        where = pool.api.removeprefix("http://")
        # It says that it serves the model, and answers with ids that are none of its own.
        liar = start_echo(tmp_path / "liar", where, tokens_per_s=0, slots=4)
        nodes.append(liar)
        refused = node_in(pool, liar.ready["peer"], "refused")
        assert "ids differ from the coordinator's own engine" in refused["reason"]
        assert "no paid work for this node" in liar.log.read_text()
        for _ in range(3):
            _status, _headers, answer = pool.call("POST", "/v1/completions", ASK)
            assert answer["usage"]["route"] == "fallback"

        honest = start_join(tmp_path / "honest", where)
        nodes.append(honest)
        seen = node_in(pool, honest.ready["node"], "ready")
        assert seen["tokens_per_s"] is not None, "measured by its probes"
        said = honest.log.read_text()
        measured = said.index("node is measuring")
        assert measured < said.rindex("node is ready"), "its operator reads where it stands"
        for _ in range(3):
            _status, _headers, answer = pool.call("POST", "/v1/completions", ASK)
            assert answer["usage"]["nodes"] == [honest.ready["node"]]
    finally:
        for node in nodes:
            node.stop()
            assert node.process.stdout is not None
            node.process.stdout.close()
        assert pool.stop() == 0
