"""What an operator does beside prompts: stop, join twice by mistake, save and bring back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import Running, start_echo, start_join, start_run, start_up


def events(running: Running) -> list[dict[str, Any]]:
    """The structured lines of a process's log."""
    lines = running.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def faults(running: Running) -> list[dict[str, Any]]:
    return [line for line in events(running) if line["level"] not in {"info", "debug"}]


def parhelion(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parhelion", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_coordinators_ctrl_c_is_no_fault_at_its_nodes_nor_at_itself(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_run(tmp_path / "pool", 1)
    node = start_echo(
        tmp_path / "echo", pool.api.removeprefix("http://"), tokens_per_s=100, slots=4
    )
    try:
        assert pool.stop(signal.SIGINT) == 0
        deadline_s = time.monotonic() + 5
        while not any("is stopping" in str(line.get("cause")) for line in events(node)):
            assert time.monotonic() < deadline_s, node.log.read_text()
            time.sleep(0.05)
        assert faults(node) == []
        assert faults(pool) == []
    finally:
        assert node.stop() == 0


def test_up_ends_without_a_word_of_warning(tmp_path: Path, smollm2: Path) -> None:
    running = start_up(tmp_path / "data")
    assert running.stop(signal.SIGINT) == 0
    assert faults(running) == []


def test_the_same_join_command_twice_is_refused_and_leaves_the_first_at_work(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_run(tmp_path / "pool", 1)
    address = pool.api.removeprefix("http://")
    node = start_join(tmp_path / "node", address)
    try:
        began_s = time.monotonic()
        again = parhelion("join", "-s", address, "--data", str(tmp_path / "node"))
        assert again.returncode == 1
        assert f"another node runs from the folder {tmp_path / 'node'}" in again.stderr
        assert "--data DIR" in again.stderr
        assert time.monotonic() - began_s < 2 * 5, "it is said before any model is loaded"
        (only,) = pool.call("GET", "/v1/nodes")[2]["data"]
        assert (only["peer"], only["state"]) == (node.ready["node"], "ready")
    finally:
        assert node.stop() == 0
        assert pool.stop() == 0


@pytest.mark.slow
def test_a_restored_coordinator_is_the_same_one_with_the_same_money(
    tmp_path: Path, smollm2: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    first = start_up(old)
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    assert first.call("POST", "/v1/chat/completions", ask)[0] == 200
    balance = first.call("GET", "/v1/credits/balance")[2]
    saved = parhelion("backup", str(tmp_path / "b.tar"), "--data", str(old))
    assert saved.returncode == 0, saved.stderr
    assert first.stop() == 0
    restored = parhelion("backup", "restore", str(tmp_path / "b.tar"), "--data", str(new))
    assert restored.returncode == 0, restored.stderr

    os.unlink(new / "first-key")
    second = start_up(new)
    try:
        assert second.ready["coordinator"] == first.ready["coordinator"]
        assert second.ready["node"] == first.ready["node"]
        # No second account with a second grant, although the file with the key was lost.
        assert second.call("GET", "/v1/credits/balance")[2] == balance
        assert second.call("GET", "/v1/credits/balance", key=first.key)[2] == balance
    finally:
        assert second.stop() == 0
