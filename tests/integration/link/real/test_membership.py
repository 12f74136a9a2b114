"""Who is a node of the real pool: banned, invited, drained, and back after a restart."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.bootstrap import knock
from parhelion.config import Config
from parhelion.testing.processes import Running, start_pool
from parhelion.words import Problem, ProblemCode

TWIN = "tests/twin"
TOKENS = 100
MANY_TOKENS = 400
"""Sixteen seconds of answer: a command and two nodes take some of them."""

REJOIN_LIMIT_S = 30.0
"""Backoff waits at most a second or two in so short an absence; the rest is the machine's."""


@pytest.mark.slow
@pytest.mark.usefixtures("unnoticed")
def test_a_banned_node_is_dropped_at_once_and_refused_on_return(paid: Any, tmp_path: Path) -> None:
    log = paid.log()
    node = paid.node(tmp_path / "node", model=TWIN)
    peer = node.ready["peer"]
    victim = paid.say(2000, TWIN)
    path, reason = f"/v1/nodes/{peer}/ban", "it lied about its model"
    assert paid.pool.call("POST", path, {"reason": reason})[0] == 403, "for the admin only"
    assert peer in paid.states()

    began_s = time.monotonic()
    assert paid.pool.call("POST", path, {"reason": reason}, key=paid.admin_key)[0] == 200
    assert peer not in paid.states()
    assert time.monotonic() - began_s < 0.1 * 5
    victim.ended()
    assert victim.error is not None and not victim.is_whole
    assert node.process.wait(20) == 1, "it does not come back by itself"
    assert (
        paid.log_of(node)
        .until(event="refused")["cause"]
        .endswith(f"banned by the pool's owner: {reason}")
    )
    log.until(event="node session ended", node=peer, code="link_refused")

    said = paid.refused_node(tmp_path / "node", model=TWIN)
    assert "banned" in said and "hint: " in said
    assert "banned" in log.until(event="node refused", node=peer)["event"]
    assert paid.pool.call("POST", f"/v1/nodes/{peer}/allow", {}, key=paid.admin_key)[0] == 200
    again = paid.node(tmp_path / "node", model=TWIN)
    assert again.ready["peer"] == peer
    assert again.stop() == 0


@pytest.mark.usefixtures("unnoticed")
def test_a_drained_node_finishes_its_answer_and_takes_no_other(paid: Any, tmp_path: Path) -> None:
    node = paid.node(tmp_path / "node", model=TWIN)
    peer = node.ready["peer"]
    answer = paid.say(TOKENS, TWIN)
    node.process.send_signal(signal.SIGTERM)
    paid.log().until(event="node is draining", node=peer)
    assert paid.states()[peer] == "draining"
    body = {"model": TWIN, "prompt": "hello", "max_tokens": 4}
    assert paid.pool.call("POST", "/v1/completions", body)[0] == 503, "nobody else serves it"
    assert not answer.is_whole, "all this was in the middle of the answer"
    answer.ended()
    assert answer.is_whole and answer.error is None and answer.finish == "length"
    assert node.process.wait(20) == 0
    assert peer not in paid.states()


def run(paid: Any, *words: str) -> str:
    """What a command of the pool's owner prints; it must succeed."""
    command = [sys.executable, "-m", "parhelion", *words, "--data", str(paid.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(paid: Any, peer: str) -> tuple[str, str]:
    """A node's state and reason, as anyone sees them; also of one that is not here."""
    nodes = paid.pool.call("GET", "/v1/nodes")[2]["data"]
    return next((one["state"], one["reason"]) for one in nodes if one["peer"] == peer)


def two_nodes_and_a_stream(paid: Any, tmp_path: Path) -> tuple[Any, Any, Any]:
    """The node that serves the stream, the one that could, and the stream."""
    nodes = [paid.node(tmp_path / name, "--name", name, model=TWIN) for name in ("here", "there")]
    stream = paid.say(MANY_TOKENS, TWIN)
    busy = {one["peer"]: one["slots_busy"] for one in paid.pool.call("GET", "/v1/nodes")[2]["data"]}
    nodes.sort(key=lambda node: -busy[node.ready["peer"]])
    return (*nodes, stream)


@pytest.mark.slow
@pytest.mark.usefixtures("unnoticed")
def test_a_banned_nodes_stream_goes_on_at_another_node(paid: Any, tmp_path: Path) -> None:
    bad, good, stream = two_nodes_and_a_stream(paid, tmp_path)
    peer, name = bad.ready["peer"], Path(bad.log).parent.name
    assert run(paid, "nodes", "ban", name, "--reason", "it lied") == f"banned {peer}\n"
    assert not stream.is_whole, "all this was in the middle of the answer"
    assert shown(paid, peer) == ("refused", "this node was banned by the pool's owner: it lied")
    assert bad.process.wait(20) == 1
    stream.ended(40)
    assert stream.is_whole and stream.error is None and stream.finish == "length"
    assert stream.usage["nodes"] == [peer, good.ready["peer"]]
    run(paid, "nodes", "allow", peer)
    assert good.stop() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("unnoticed")
@pytest.mark.parametrize("within", ["2s", "0s"])
def test_a_node_that_the_owner_drains_waits_outside_until_it_is_undrained(
    paid: Any, tmp_path: Path, within: str
) -> None:
    node, other, stream = two_nodes_and_a_stream(paid, tmp_path)
    peer, said = node.ready["peer"], paid.log_of(node)
    reason = "drained by the pool's owner: new fan"
    words = ("--reason", "new fan", "--within", within)
    assert run(paid, "nodes", "drain", peer, *words) == f"drained {peer}\n"
    assert not stream.is_whole, "all this was in the middle of the answer"
    if within != "0s":
        assert shown(paid, peer) == ("draining", reason)
    # What was left after that time went on elsewhere.
    stream.ended(40)
    assert stream.is_whole and stream.error is None
    assert stream.usage["nodes"] == [peer, other.ready["peer"]]
    said.until(event="no link to the coordinator", cause=reason, hint="nodes undrain")
    assert peer not in paid.states() and node.process.poll() is None, "it waits"
    assert shown(paid, peer) == ("refused", reason)
    (row,) = [line for line in run(paid, "nodes", "access").splitlines() if peer in line]
    assert row.startswith("drained ") and row.endswith("  new fan") and "  no  " in row
    assert run(paid, "nodes", "undrain", peer) == f"undrained {peer}\n"
    assert peer not in run(paid, "nodes", "access")
    paid.until_ready(peer, REJOIN_LIMIT_S)
    for one in (node, other):
        assert one.stop() == 0


class Home:
    """A pool of this test's own, that may be killed and started again on its port."""

    def __init__(self, data: Path, make: Any, env: dict[str, str] | None = None) -> None:
        self.data = data
        self._make = make
        self._env = env
        self._port = "0"
        self.pools: list[Any] = []
        self.start()

    @property
    def paid(self) -> Any:
        return self.pools[-1]

    def start(self) -> None:
        pool: Running = start_pool(self.data, "--api-port", self._port, env=self._env)
        self.pools.append(self._make(pool, self.data))
        self._port = str(self.paid.port)


@pytest.fixture
def home(tmp_path: Path, paid: Any) -> Iterator[Any]:
    """Makes pools of a test's own."""
    homes: list[Home] = []

    def make(env: dict[str, str] | None = None) -> Home:
        homes.append(Home(tmp_path / "home", type(paid), env))
        return homes[-1]

    yield make
    for one in homes:
        for pool in one.pools:
            pool.close()


async def test_a_node_without_an_invite_learns_it_by_knocking_and_one_with_it_spends_none(
    home: Any, tmp_path: Path
) -> None:
    pool = home({"PARHELION_NODES_ADMIT": "invite"}).paid
    where, _, invite = pool.pool.ready["join"].partition("#")
    answer = {"uses": 1, "ttl_s": 60}
    _, _, made = pool.pool.call("POST", "/v1/invites", answer, key=pool.admin_key)
    config = Config(data=str(tmp_path / "node"))
    with pytest.raises(Problem, match="admits nodes by invite") as caught:
        await knock(config, where)
    assert caught.value.code is ProblemCode.LINK_REFUSED
    assert "#INVITE" in caught.value.hint
    with pytest.raises(Problem, match="unknown, used up or expired"):
        await knock(config, f"{where}#{invite[:-1]}{'A' if invite[-1] != 'A' else 'B'}")
    for _ in range(2):
        assert await knock(config, f"{where}#{made['invite']}") is None
    assert pool.states() == {}


def test_by_invite_a_node_joins_with_the_printed_command_and_is_remembered(
    home: Any, tmp_path: Path
) -> None:
    pool = home({"PARHELION_NODES_ADMIT": "invite"}).paid
    printed = pool.pool.ready["join"]
    where, mark, invite = printed.partition("#")
    assert mark and invite
    log = pool.log()
    said = pool.refused_node(tmp_path / "node", address=where)
    assert "by invite" in said and "#INVITE" in said.partition("hint: ")[2]
    log.until(event="node refused: this pool admits nodes by invite")
    said = pool.refused_node(tmp_path / "node", address=f"{where}#{'A' * len(invite)}")
    assert "invite" in said and "hint: " in said
    assert pool.states() == {}

    node = pool.node(tmp_path / "node", address=printed)
    pool.answers()
    assert node.stop() == 0
    again = pool.node(tmp_path / "node", address=where)
    assert again.ready == node.ready
    pool.answers()
    # Remembered is this key; another one still needs an invite.
    assert "by invite" in pool.refused_node(tmp_path / "other", address=where)
    logged = pool.pool.log.read_text() + again.log.read_text()
    assert invite not in logged, "an invite is a secret"
    assert again.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_after_a_restart_of_the_coordinator_its_nodes_come_back_by_themselves(
    home: Any, tmp_path: Path, end: str
) -> None:
    own = home()
    before = own.paid
    node = before.node(tmp_path / "node")
    peer, said = node.ready["peer"], before.log_of(node)
    before.answers()
    if end == "killed":
        before.pool.kill()
    else:
        assert before.pool.stop() == 0
        said.until(event="no link to the coordinator", cause="the coordinator is stopping")
    said.until(event="no link to the coordinator")
    # It keeps knocking, and waits longer each time.
    said.until(cause="nobody listens")
    own.start()
    own.paid.until_ready(peer, REJOIN_LIMIT_S)
    own.paid.answers()
    waits = [line["again_in_s"] for line in said.lines() if "again_in_s" in line]
    assert len(waits) >= 2 and waits[-1] > waits[0] * 0.99
    assert own.paid.pool.ready["coordinator"] == before.pool.ready["coordinator"]
    assert node.stop() == 0
