"""The node beside its coordinator is started again whatever stops it from starting."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.bootstrap import local_node
from parhelion.bootstrap.local_node import (
    JOIN_SILENCE_LIMIT_S,
    LocalNode,
    NodeOrder,
    NodeWord,
)
from parhelion.config import Config
from parhelion.hosts import PING_EVERY_S, ChildGone


class Obedient:
    """A child that was started and takes its order."""

    def __init__(self, sent: list[bytes]) -> None:
        self.ended = asyncio.Event()
        self.killed = False
        self._sent = sent

    def send(self, body: bytes) -> None:
        self._sent.append(body)

    def kill(self) -> None:
        self.killed = True
        self.ended.set()

    async def stop(self, grace_s: float) -> None:
        self.ended.set()


class Dying(Obedient):
    """One that has ended before its order came."""

    def send(self, body: bytes) -> None:
        raise ChildGone("node", -9, "")


async def test_a_node_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[bytes] = []
    tries = [OSError(11, "Resource temporarily unavailable"), Dying(sent), RuntimeError("ours")]
    started = asyncio.Event()

    async def start(*arguments: object, **options: object) -> Obedient:
        if not tries:
            started.set()
            return Obedient(sent)
        now = tries.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    monkeypatch.setattr(local_node.Child, "start", start)
    monkeypatch.setattr(local_node, "backoff_s", lambda failures, jitter: 0.0)
    node = LocalNode(NodeOrder(config=Config(), models=()))
    node.send_to("/ip4/127.0.0.1/tcp/1")
    await node.start()
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.sleep(0)
    assert any(b"/ip4/127.0.0.1/tcp/1" in body for body in sent)
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 3
    await node.stop()


def passes(node: LocalNode, child: Any, from_s: float, to_s: float, *, answers: bool) -> None:
    now_s = from_s
    while now_s < to_s:
        before = len(child._sent)
        node._look(child, now_s)
        if answers and child._sent[before:] == [b""]:
            node._hear(msgspec.json.encode(NodeWord()))
        now_s += PING_EVERY_S


async def test_a_node_that_stands_still_is_ended_but_not_soon_while_it_loads() -> None:
    node, child = LocalNode(NodeOrder(config=Config(), models=())), Obedient([])
    passes(node, child, 0.0, 600.0, answers=False)
    assert not child.killed, "it has not joined yet: it loads"
    node._hear(msgspec.json.encode(NodeWord(joined="peer")))
    passes(node, child, 600.0, 1200.0, answers=True)
    assert len(child._sent) > 250 and not child.killed and node.peer == "peer"
    passes(node, child, 1200.0, 1209.0, answers=False)
    assert child.killed


async def test_a_node_that_stands_still_before_it_has_joined_is_ended_in_the_end() -> None:
    node, child = LocalNode(NodeOrder(config=Config(), models=())), Obedient([])
    passes(node, child, 0.0, 2 * JOIN_SILENCE_LIMIT_S, answers=True)
    assert not child.killed, "it lives: who is kept out, or loads, is not ended for its time"
    begin_s = 2 * JOIN_SILENCE_LIMIT_S
    passes(node, child, begin_s, begin_s + JOIN_SILENCE_LIMIT_S - 2 * PING_EVERY_S, answers=False)
    assert not child.killed
    passes(node, child, begin_s + JOIN_SILENCE_LIMIT_S, begin_s + 1000.0, answers=False)
    assert child.killed
