"""`join --service` and `node status|drain|logs`, with real nodes and a stand-in for systemctl."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from parhelion.identity import lock_node
from parhelion.node import NodeState, read_state, write_state
from parhelion.testing.processes import Running

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a systemd user service"),
]
JOIN_DEADLINE_S = 40.0

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLED"
case "$*" in
  *--version*) echo "systemd 257 (257)" ;;
  *Linger*) echo "Linger=yes" ;;
esac
"""


@pytest.fixture
def system(tmp_path: Path, lan: dict[str, str]) -> dict[str, str]:
    """An environment with a home of its own, and systemctl, loginctl, journalctl that note calls.

    systemd itself does not run on every machine that runs tests.
    """
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    for name in ("systemctl", "loginctl", "journalctl"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    config = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    path = f"{programs}:{os.environ['PATH']}"
    return {**lan, **config, "PATH": path, "CALLED": str(tmp_path / "called")}


def unit_words(text: str, name: str) -> list[str]:
    """A unit's words as systemd reads them."""
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]
    return [
        word.replace("%%", "%").replace("$$", "$") for line in lines for word in shlex.split(line)
    ]


@pytest.mark.slow
def test_a_service_joins_without_the_invite_that_let_it_in_and_drains(
    plain_pool: Running,
    invite: str,
    parhelion: Any,
    system: dict[str, str],
    tmp_path: Path,
    smollm2: Path,
) -> None:
    peer, data = plain_pool.ready["coordinator"], ("--data", str(tmp_path / "data"))
    nothing = parhelion("node", "status", *data, env=system)
    assert nothing.returncode == 1 and "no node runs from" in nothing.stderr

    done = parhelion("join", "-s", f"{peer}#{invite}", "--service", *data, env=system)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "home/config/systemd/user").iterdir()
    text = file.read_text()
    assert invite not in text and file.stat().st_mode & 0o777 == 0o600
    assert str(file) in done.stdout and "disable --now" in done.stdout
    called = (tmp_path / "called").read_text()
    assert f"systemctl --user restart {file.stem}" in called
    assert not any(invite in kept.read_text("latin-1") for kept in files(tmp_path / "data"))

    # What systemd would run, run here: the pool knows the node by its key.
    words, variables = unit_words(text, "ExecStart"), unit_words(text, "Environment")
    assert words[0] == sys.executable and peer in words
    kept = dict(variable.split("=", 1) for variable in variables)
    assert kept["PARHELION_LAN_INTERFACES"] == "127.0.0.1"
    node = subprocess.Popen(words, env={"PATH": "/usr/bin:/bin", **kept}, stderr=subprocess.DEVNULL)
    try:
        wait_ready(tmp_path / "data", node)
        ready = parhelion("node", "status", *data)
        assert ready.returncode == 0 and ready.stdout.startswith("ready, since ")
        assert f"Pool   {peer}" in ready.stdout and f"Pid    {node.pid}" in ready.stdout
        drained = parhelion("node", "drain", *data)
        assert drained.returncode == 0, drained.stderr
        assert node.wait(1) == 0
    finally:
        node.kill()
        node.wait()
    after = parhelion("node", "status", *data)
    assert after.returncode == 1 and after.stdout.startswith(
        "not running (its operator stopped it)"
    )
    assert parhelion("node", "drain", *data).returncode == 1

    assert parhelion("node", "logs", "-n", "7", *data, env=system).returncode == 0
    assert f"journalctl --user-unit {file.stem} --lines 7" in (tmp_path / "called").read_text()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]


def wait_ready(folder: Path, node: subprocess.Popen[bytes]) -> None:
    """Return once the node in this folder says that it is ready."""
    deadline_s = time.monotonic() + JOIN_DEADLINE_S
    while (state := read_state(folder)) is None or (state.pid, state.state) != (node.pid, "ready"):
        assert node.poll() is None and time.monotonic() < deadline_s, state
        time.sleep(0.05)


def test_where_no_systemd_answers_nothing_is_joined_and_the_cause_is_said(
    plain_pool: Running, invite: str, parhelion: Any, system: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho 'no bus' >&2\nexit 1\n")
    words = ("join", "-s", f"{plain_pool.api}#{invite}", "--service", "--data", str(tmp_path / "d"))
    refused = parhelion(*words, env=system)
    assert refused.returncode == 1
    assert "systemd runs no services for this user: no bus" in refused.stderr
    assert "without --service" in refused.stderr
    assert not (tmp_path / "home/config").exists()


def test_the_node_of_up_is_shown_and_left_to_up(parhelion: Any, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    now_ms = time.time_ns() // 1_000_000
    state = NodeState(
        pid=os.getpid(),
        peer="12D3KooWnode",
        name="red-fox",
        state="ready",
        since_ms=now_ms,
        started_at_ms=now_ms,
    )
    write_state(folder, state)
    lock = lock_node(folder)
    try:
        assert parhelion("node", "status", "--data", str(tmp_path)).returncode == 0
        refused = parhelion("node", "drain", "--data", str(tmp_path))
        assert refused.returncode == 1 and "parhelion up" in refused.stderr
    finally:
        lock.release()
