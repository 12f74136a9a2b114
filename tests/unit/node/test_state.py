"""A node's state is read from its folder, and believed only while its process holds the lock."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from parhelion.identity import lock_node
from parhelion.node import NodeState, is_running, read_state, write_state
from parhelion.words import Problem

STATE = NodeState(pid=1, peer="p", name="red-fox", state="ready", since_ms=1, started_at_ms=0)


def test_what_was_written_last_is_read_and_is_its_owners(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, STATE)
    last = msgspec.structs.replace(STATE, state="gone", reason="stopped")
    write_state(tmp_path, last)
    assert read_state(tmp_path) == last
    (file,) = tmp_path.iterdir()
    assert os.name != "posix" or file.stat().st_mode & 0o777 == 0o600


def test_a_node_runs_while_its_folder_is_locked(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert not is_running(tmp_path), "process 1 lives, but it holds no lock of ours"
    lock = lock_node(tmp_path)
    assert is_running(tmp_path)
    lock.release()
    assert not is_running(tmp_path)


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.state.json").write_text("{")
    with pytest.raises(Problem, match="cannot be read"):
        read_state(tmp_path)
