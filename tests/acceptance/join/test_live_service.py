"""`join --service` under a real systemd: started, killed, brought back, drained, removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from parhelion.testing.processes import Running

SCRIPT = Path(__file__).with_name("user_manager.sh")
START_DEADLINE_S = 20.0
COMMAND_DEADLINE_S = 60.0
BACK_DEADLINE_S = 90.0
"""A systemd before 254 waits 30 s before it starts a node again, and the node its own start."""

NEEDED = ("unshare", "nsenter", "systemctl", "journalctl", "/lib/systemd/systemd")


class User(NamedTuple):
    """A user with a systemd of their own: runs commands as that user, in their namespaces."""

    inside: int
    env: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.inside), "--mount", "--pid", "--cgroup", "--"]
        return subprocess.run(
            [*enter, *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            stdin=subprocess.DEVNULL,
            env=self.env,
        )

    def parhelion(self, *words: str) -> str:
        """What one of our commands says on standard output; it must succeed."""
        done = self.run(sys.executable, "-m", "parhelion", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl", "--user", *words).stdout.strip()


@pytest.fixture
def user(tmp_path: Path, lan: dict[str, str]) -> Iterator[User]:
    """Skips where systemd or the rights to give it namespaces are missing."""
    if sys.platform != "linux" or any(shutil.which(program) is None for program in NEEDED):
        pytest.skip(f"needs {', '.join(NEEDED)}")
    if os.geteuid() != 0:
        pytest.skip("only root may give a systemd namespaces of its own")
    home = tmp_path / "home"
    home.mkdir()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folders = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_CACHE_HOME": cache}
    env = {**os.environ, **lan, **folders, **runtime}
    log = tmp_path / "manager.log"
    with log.open("wb") as said:
        manager = subprocess.Popen(
            ["unshare", "--mount", "sh", str(SCRIPT), str(tmp_path)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=env,
        )
    try:
        yield _started(manager, log, env)
    finally:
        manager.terminate()
        manager.wait(START_DEADLINE_S)


def _started(manager: subprocess.Popen[bytes], log: Path, env: dict[str, str]) -> User:
    """The user, once their systemd runs; skips when it cannot."""
    until_s = time.monotonic() + START_DEADLINE_S
    while manager.poll() is None and time.monotonic() < until_s:
        first = log.read_text().partition("\n")
        if first[1] and first[0].isdigit():
            user = User(int(first[0]), env)
            if user.systemctl("is-system-running") in ("running", "degraded"):
                return user
        time.sleep(0.1)
    pytest.skip(f"no systemd --user can be started here: {log.read_text()[-500:]}")


@pytest.mark.slow
def test_systemd_brings_a_killed_node_back_and_leaves_a_drained_one_alone(
    plain_pool: Running, invite: str, user: User, tmp_path: Path, smollm2: Path
) -> None:
    data = ("--data", str(tmp_path / "data"))
    joined = user.parhelion(
        "join", "-s", f"{plain_pool.api}#{invite}", "--service", "--json", *data
    )
    done = json.loads(joined)
    label = Path(done["file"]).stem
    node = until(lambda: ready(user, data))
    peer = node["peer"]
    assert served(plain_pool, peer) == "ready"
    assert user.systemctl("is-enabled", label) == "enabled"
    assert user.systemctl("show", label, "--property=MainPID") == f"MainPID={node['pid']}"

    assert user.run("kill", "-KILL", str(node["pid"])).returncode == 0
    again = until(lambda: ready(user, data, other_than=node["pid"]), BACK_DEADLINE_S)
    assert again["peer"] == peer and served(plain_pool, peer) == "ready"
    assert user.systemctl("show", label, "--property=NRestarts") == "NRestarts=1"

    logs = user.parhelion("node", "logs", "-n", "500", *data)
    assert len(set(re.findall(r"python\S*\[(\d+)\]", logs))) == 2, logs
    assert logs.count("ready") >= 2, logs

    assert "drained" in user.parhelion("node", "drain", *data)
    until(lambda: user.systemctl("is-active", label) == "inactive")
    assert served(plain_pool, peer) != "ready"
    stopped = user.run(sys.executable, "-m", "parhelion", "node", "status", *data)
    assert stopped.returncode == 1 and "its operator stopped it" in stopped.stdout

    assert user.run("sh", "-c", done["remove"]).returncode == 0
    assert not Path(done["file"]).exists()
    assert user.systemctl("is-enabled", label) != "enabled"


def ready(user: User, data: tuple[str, ...], other_than: int = 0) -> dict[str, Any] | None:
    """The state of this folder's node, if it runs, is ready, and is not that process."""
    status = user.run(sys.executable, "-m", "parhelion", "node", "status", "--json", *data)
    if status.returncode:
        return None
    state = json.loads(status.stdout)
    return state if state["state"] == "ready" and state["pid"] != other_than else None


def served(pool: Running, peer: str) -> str:
    """The state of a node as its pool shows it."""
    nodes = pool.call("GET", "/v1/nodes")[2]["data"]
    return next(str(node["state"]) for node in nodes if node["peer"] == peer)


def until(look: Callable[[], Any], deadline_s: float = COMMAND_DEADLINE_S) -> Any:
    """What a look shows, once it shows something."""
    until_s = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < until_s
        time.sleep(0.2)
    return seen
