"""Slices from one node to another: real machines of one pool, and a coordinator that sends none."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.cable import Cable
from parhelion.testing.processes import Running, start, start_run

pytestmark = pytest.mark.slow

LIMIT = "280MB"
"""Two such machines hold the packaged model, one never does."""

SERVING_S = 60.0
TOLD = {"PARHELION_LOG_LEVEL": "info", "PARHELION_NODES_PROBE": "false"}


class Gate(Cable):
    """A way to the coordinator by which everything gets through but the files of models."""

    refused = 0

    def answer(self, path: str) -> bytes | None:
        if not path.startswith("/v1/artefacts"):
            return None
        self.refused += 1
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Pool:
    """A private pool and the machines that joined it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running = start_run(folder / "pool", 2, env=TOLD)
        self.nodes: dict[str, Running] = {}

    def join(self, url: str) -> str:
        data = self.folder / f"node{len(self.nodes)}"
        data.mkdir()
        limits = ["--pipeline", "--memory-limit", LIMIT]
        node = start(
            ["join", "-s", url, *limits, "--json", "--data", str(data)],
            data / "test.log",
            env=TOLD,
        )
        self.nodes[node.ready["node"]] = node
        return node.ready["node"]

    def serving(self, count: int) -> list[dict[str, Any]]:
        """The pipelines, once so many serve."""
        until_s = time.monotonic() + SERVING_S
        while True:
            _status, _headers, told = self.running.call("GET", "/v1/nodes")
            at_work = [one for one in told["pipelines"] if one["state"] == "serving"]
            if len(at_work) == count:
                return at_work
            assert time.monotonic() < until_s, json.dumps(told["pipelines"], indent=1)
            time.sleep(0.1)

    def served(self) -> list[dict[str, Any]]:
        """What nodes have logged of slices that they served."""
        lines = [
            json.loads(line)
            for node in self.nodes.values()
            for line in node.log.read_text().splitlines()
            if line.startswith("{")
        ]
        return [line for line in lines if line["event"] == "a slice was served"]

    def close(self) -> None:
        for one in [*self.nodes.values(), self.running]:
            one.stop()


@pytest.mark.timeout(180)
def test_machines_that_get_nothing_from_the_coordinator_get_their_slices_from_others(
    tmp_path: Path,
) -> None:
    pool = Pool(tmp_path)
    gate = Gate(int(pool.running.api.rpartition(":")[2]))
    try:
        first = {pool.join(pool.running.api) for _ in range(2)}
        pool.serving(1)
        assert pool.served() == []
        second = {pool.join(f"http://{gate.address}") for _ in range(2)}
        stages = [stage for one in pool.serving(2) for stage in one["stages"]]
        assert {stage["peer"] for stage in stages} == first | second
        kept_bytes = {
            peer: [
                path.stat().st_size
                for path in sorted((pool.folder).glob(f"node{at}/slices/*.gguf"))
            ]
            for at, peer in enumerate(pool.nodes)
        }
        served = pool.served()
        assert {line["peer"] for line in served} == second
        for peer in second:
            came_bytes = sum(line["sent_bytes"] for line in served if line["peer"] == peer)
            assert came_bytes == sum(kept_bytes[peer]) > 10_000_000
        print(f"\nfrom other nodes: {sum(line['sent_bytes'] for line in served)} bytes")
        print(f"asked of the coordinator, in vain: {gate.refused}")
    finally:
        gate.close()
        pool.close()
