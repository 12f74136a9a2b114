"""Every hostile thing on the real link is dropped with its cause; nothing else notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from parhelion.identity import NodeKey
from parhelion.link import Heartbeat, Register

pytestmark = pytest.mark.usefixtures("unnoticed")

TWIN = "tests/twin"
REFUSED = 4400
GONE_S = 6.0
SILENCE_S = 5.0
"""What a socket may take for its handshake, and then for its registration."""

FACTOR = 5
"""Deadlines are asserted with this factor, because machines are busy."""

VICTIM_TOKENS = 100
VICTIM_S = 4.0
"""What these take an echo node: the coordinator's next frame to it comes within two seconds."""

RESUME_WAIT_S = 10.0
"""How long a stream waits for a node that can go on."""

RATE_MICRO = 4
HUGE_BYTES = 100_000_000


@pytest.mark.parametrize("side", ["node", pytest.param("coordinator", marks=pytest.mark.slow)])
def test_one_altered_byte_ends_both_sides_with_the_cause_and_the_node_comes_back(
    paid: Any, relay: Any, echoed: Any, tmp_path: Path, side: str
) -> None:
    log = paid.log()
    where = relay.address(paid.pool.ready["coordinator"])
    node = paid.node(tmp_path / "node", address=where, model=TWIN)
    peer, said = node.ready["peer"], paid.log_of(node)
    victim = paid.say(VICTIM_TOKENS, TWIN)
    relay.alter = side
    paid.answers()
    # Its own stream waits for it, the one node with that model, and goes on with no id changed.
    victim.ended(VICTIM_S * FACTOR)
    assert len(relay.altered) == 1
    assert victim.error is None and victim.is_whole and victim.finish == "length"
    assert victim.text == echoed(VICTIM_TOKENS)
    assert (victim.usage["migrations"], victim.usage["nodes"]) == (1, [peer])
    tokens = victim.usage["prompt_tokens"] + VICTIM_TOKENS
    assert int(victim.usage["cost"]) == tokens * RATE_MICRO, "each id is paid once"
    for lines, other in ((log, peer), (said, paid.pool.ready["coordinator"])):
        assert "cannot be unsealed" in lines.until(event="link ended", peer=other)["cause"]
    assert log.until(event="node session ended", node=peer)["code"] == "link_broken"
    assert said.until(event="no link to the coordinator", cause="cannot be unsealed")["hint"]
    # It comes back by itself, through the same man, and serves again.
    paid.until_ready(peer)
    paid.answers(TWIN)
    assert node.stop() == 0


def test_a_coordinator_with_another_key_is_refused_by_the_node(paid: Any, tmp_path: Path) -> None:
    log, other = paid.log(), NodeKey(os.urandom(32)).peer
    where = f"/ip4/127.0.0.1/tcp/{paid.port}/p2p/{other}"
    said = paid.refused_node(tmp_path / "node", address=where, model=TWIN)
    assert "another coordinator answered" in said
    assert other in said and paid.pool.ready["coordinator"] in said
    assert "hint: " in said
    assert "another coordinator" in log.until(event="handshake refused")["cause"]


def test_a_recorded_handshake_opens_no_second_session(
    paid: Any, relay: Any, stranger: Any, tmp_path: Path
) -> None:
    log = paid.log()
    where = relay.address(paid.pool.ready["coordinator"])
    node = paid.node(tmp_path / "node", address=where, model=TWIN)
    hello, proof, *sealed = relay.frames
    joined = paid.nodes_now()[node.ready["peer"]]
    thief = stranger()
    thief.ws.send(hello)
    thief.ws.recv(5)
    thief.ws.send(proof)
    with contextlib.suppress(Exception):
        thief.ws.send(sealed[0])
    code, reason = thief.closing()
    assert code == REFUSED and "replayed" in reason
    assert "replayed" in log.until(event="handshake refused")["cause"]
    # The session that it was recorded from goes on.
    assert paid.nodes_now()[node.ready["peer"]] == joined
    paid.answers(TWIN)
    assert node.stop() == 0


def test_who_does_not_own_the_key_cannot_join_as_that_node(paid: Any, stranger: Any) -> None:
    log, before = paid.log(), paid.nodes_now()
    (peer,) = before
    thief = stranger()
    hand = thief.hand()
    hello = {**msgspec.msgpack.decode(hand.opening()), "peer": peer}
    thief.ws.send(msgspec.msgpack.encode(hello))
    thief.ws.recv(5)
    thief.ws.send(msgspec.msgpack.encode({"t": "node_proof", "signature": os.urandom(64)}))
    code, reason = thief.closing()
    assert code == REFUSED and "signature does not hold" in reason
    assert peer in log.until(event="handshake refused")["cause"]
    assert paid.nodes_now() == before


def test_an_unknown_message_ends_the_session_with_its_cause(paid: Any, stranger: Any) -> None:
    log = paid.log()
    for one in (stranger().shake_hands(), stranger().register()):
        one.say({"t": "drop_tables", "of": "ledger"})
        paid.answers()
        assert b"unknown or malformed message" in one.hear(), "a sealed Bye tells why"
        code, reason = one.closing()
        assert code == REFUSED and "unknown or malformed" in reason
        assert "drop_tables" in log.until(event="link ended", peer=one.key.peer)["cause"]
        assert one.key.peer not in paid.nodes_now()


def test_a_known_message_at_the_wrong_moment_ends_the_session_too(paid: Any, stranger: Any) -> None:
    log = paid.log()
    early = stranger().shake_hands()
    early.say(Heartbeat(sent_at_ms=0, slots_busy=0, engine="ready"))
    assert b"first message must be register" in early.hear_after_alive()
    log.until(event="node refused", node=early.key.peer)
    twice = stranger().register()
    twice.say(Register(card=twice.card))
    assert b"Register is not expected" in twice.hear_after_alive()
    log.until(event="Register is not expected", node=twice.key.peer)
    assert paid.nodes_now().keys().isdisjoint({early.key.peer, twice.key.peer})


@pytest.mark.parametrize("who", ["unproven", "registered"])
def test_a_frame_of_100_mb_is_refused_unread(paid: Any, stranger: Any, who: str) -> None:
    log = paid.log()
    one = stranger() if who == "unproven" else stranger().register()
    process = psutil.Process(paid.pool.process.pid)
    before_bytes = process.memory_info().rss
    head = bytes([0x82, 0xFF]) + HUGE_BYTES.to_bytes(8, "big") + os.urandom(4)
    sent_bytes = 0
    with contextlib.suppress(OSError):
        one.ws.socket.settimeout(5)
        one.ws.socket.sendall(head)
        while sent_bytes < HUGE_BYTES:
            one.ws.socket.sendall(bytes(1 << 20))
            sent_bytes += 1 << 20
    paid.answers()
    assert sent_bytes < HUGE_BYTES / 2, "the coordinator read on"
    assert process.memory_info().rss - before_bytes < HUGE_BYTES / 4
    if who == "unproven":
        assert "over the limit" in log.until(event="handshake refused")["cause"]
    else:
        assert "over the limit" in log.until(event="link ended", peer=one.key.peer)["cause"]
        assert one.key.peer not in paid.nodes_now()


def test_binary_garbage_is_refused_wherever_it_comes(paid: Any, stranger: Any) -> None:
    log = paid.log()
    first = stranger()
    first.ws.send(os.urandom(300))
    assert first.closing()[0] == REFUSED
    assert "NodeHello" in log.until(event="handshake refused")["cause"]
    for one in (stranger().shake_hands(), stranger().register()):
        one.ws.send(os.urandom(300))
        paid.answers()
        code, reason = one.closing()
        assert code == REFUSED and "cannot be unsealed" in reason
        log.until(event="link ended", peer=one.key.peer, cause="cannot be unsealed")
    assert paid.nodes_now().keys() == {paid.bystander}


def test_bytes_that_are_no_websocket_frame_end_the_session(paid: Any, stranger: Any) -> None:
    log, one = paid.log(), stranger().register()
    one.ws.socket.sendall(b"\xff" * 64)
    paid.answers()
    log.until(event="link ended", peer=one.key.peer)
    assert one.key.peer not in paid.nodes_now()
    with socket.create_connection(("127.0.0.1", paid.port), timeout=10) as wire:
        wire.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
        assert wire.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert wire.recv(4096) == b""


def test_a_text_frame_is_refused_wherever_it_comes(paid: Any, stranger: Any) -> None:
    log = paid.log()
    first = stranger()
    first.ws.send("hello")
    assert first.closing()[1] == "binary messages only"
    assert log.until(event="handshake refused")["cause"].startswith("a text message came")
    one = stranger().register()
    one.ws.send("hello")
    paid.answers()
    assert one.closing()[1] == "binary messages only"
    cause = log.until(event="link ended", peer=one.key.peer)["cause"]
    assert cause.startswith("a text message came")
    assert one.key.peer not in paid.nodes_now()


@pytest.mark.slow
def test_silence_before_the_hello_and_before_the_registration_is_ended(
    paid: Any, stranger: Any
) -> None:
    log, began_s = paid.log(), time.monotonic()
    mute, shy = stranger(), stranger().shake_hands()
    paid.answers()
    code, reason = mute.closing(SILENCE_S * FACTOR)
    assert code == REFUSED and reason.startswith("silence")
    code, reason = shy.closing(SILENCE_S * FACTOR)
    assert "no registration" in reason
    assert SILENCE_S * 0.9 < time.monotonic() - began_s < SILENCE_S * FACTOR
    log.until(event="handshake refused", cause="silence")
    log.until(event="no registration within", node=shy.key.peer)


@pytest.mark.slow
def test_a_node_that_stops_is_gone_after_six_seconds_and_comes_back_when_it_wakes(
    paid: Any, tmp_path: Path
) -> None:
    log = paid.log()
    node = paid.node(tmp_path / "node", model=TWIN)
    peer = node.ready["peer"]
    victim = paid.say(2000, TWIN)
    began_s = time.monotonic()
    node.process.send_signal(signal.SIGSTOP)
    try:
        log.until(GONE_S * FACTOR, event="node is suspect", node=peer)
        assert paid.states()[peer] == "suspect"
        paid.answers()
        line = log.until(GONE_S * FACTOR, event="node session ended", node=peer)
        assert "silent for" in line["event"]
        # The last heartbeat may have come up to two seconds before the stop.
        assert GONE_S - 2.5 < time.monotonic() - began_s < GONE_S * FACTOR
        assert peer not in paid.states()
        # No other node has its model, and this one sleeps for longer than a stream waits.
        victim.ended(RESUME_WAIT_S * FACTOR)
        assert victim.error is not None and victim.error["code"] == "node_lost"
    finally:
        node.process.send_signal(signal.SIGCONT)
    paid.until_ready(peer)
    paid.answers(TWIN)
    assert paid.log_of(node).until(event="no link to the coordinator")["cause"]
    assert node.stop() == 0
