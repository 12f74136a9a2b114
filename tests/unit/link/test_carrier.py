"""The carrier over a wire in memory that an adversary holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.link import (
    FRAME_LIMIT_BYTES,
    Alive,
    Bye,
    Carrier,
    Drain,
    Draining,
    FromCoordinator,
    FromNode,
    Heartbeat,
    LinkBroken,
    Steps,
    accept,
)
from parhelion.link import carrier as carrying
from parhelion.link.carrier import carry_from_coordinator
from parhelion.link.handshake import NodeHandshake
from parhelion.link.messages import Spoken
from parhelion.testing.sockets import MemorySocket, socket_pair
from parhelion.words import Problem, ProblemCode, Step

NODE = NodeKey(b"n" * 32)
COORDINATOR = NodeKey(b"c" * 32)


class Dance(Spoken, frozen=True, kw_only=True, tag="dance"):
    """A message of no union."""


async def shake(socket: MemorySocket) -> Carrier[FromCoordinator]:
    handshake = NodeHandshake(NODE, COORDINATOR.peer)
    await socket.send(handshake.opening())
    await socket.send(handshake.feed(await socket.receive()))
    assert handshake.seal is not None and handshake.peer is not None
    return carry_from_coordinator(socket, handshake.seal, handshake.peer)


@asynccontextmanager
async def session() -> AsyncIterator[
    tuple[Carrier[FromCoordinator], Carrier[FromNode], MemorySocket, MemorySocket]
]:
    """A node's carrier, its coordinator's, and the two ends of the wire between."""
    near, far = socket_pair()
    node, coordinator = await asyncio.gather(shake(near), accept(far, COORDINATOR))
    try:
        yield node, coordinator, near, far
    finally:
        await node.abort()
        await coordinator.abort()


async def both_causes(
    node: Carrier[FromCoordinator], coordinator: Carrier[FromNode]
) -> tuple[str, str]:
    """What ends each side: its own cause, or the Bye that it is told."""

    async def end(carrier: Carrier[FromCoordinator] | Carrier[FromNode]) -> str:
        async with asyncio.timeout(5):
            while True:
                try:
                    heard = await carrier.receive()
                except LinkBroken as cause:
                    return cause.message
                if isinstance(heard, Bye):
                    return heard.message

    return await asyncio.gather(end(node), end(coordinator))  # type: ignore[return-value]


def once(change: Callable[[bytes], list[bytes]], at: int = 0) -> Callable[[bytes], list[bytes]]:
    """A tamperer that touches only the frame number `at` of those it sees."""
    seen = -1

    def tamper(data: bytes) -> list[bytes]:
        nonlocal seen
        seen += 1
        return change(data) if seen == at else [data]

    return tamper


async def test_messages_arrive_in_order_both_ways_and_the_peers_are_proven() -> None:
    async with session() as (node, coordinator, _, _):
        assert (node.peer, coordinator.peer) == (COORDINATOR.peer, NODE.peer)
        for n in range(50):
            await node.send(Draining(reason=str(n)))
            await coordinator.send(Drain(reason=str(n)))
        assert [(await coordinator.receive()).reason for _ in range(50)] == [  # type: ignore[union-attr]
            str(n) for n in range(50)
        ]
        assert [(await node.receive()).reason for _ in range(50)] == [str(n) for n in range(50)]  # type: ignore[union-attr]


async def test_messages_that_wait_together_leave_as_one_frame() -> None:
    async with session() as (node, coordinator, near, _):
        frames = []
        near.tamper = lambda data: frames.append(data) or [data]  # type: ignore[func-returns-value]
        for n in range(30):
            node.post(Draining(reason=str(n)))
        for _ in range(30):
            await coordinator.receive()
        assert len(frames) == 1


async def test_a_heartbeat_is_answered_by_the_coordinators_carrier() -> None:
    async with session() as (node, coordinator, _, _):
        await node.send(Heartbeat(sent_at_ms=1, slots_busy=0, engine="ready"))
        assert isinstance(await coordinator.receive(), Heartbeat)
        assert isinstance(await node.receive(), Alive)


async def test_a_bye_is_the_last_word_and_is_delivered_whole() -> None:
    async with session() as (node, coordinator, _, far):
        await node.send(Draining(reason="first"))
        await node.close(Bye(code=ProblemCode.DRAINING, message="done", hint="later"))
        assert await coordinator.receive() == Draining(reason="first")
        assert await coordinator.receive() == Bye(code="draining", message="done", hint="later")
        with pytest.raises(LinkBroken, match="done"):
            await coordinator.receive()
        with pytest.raises(LinkBroken):
            await coordinator.send(Drain(reason="too late"))
        with pytest.raises(LinkBroken):
            await node.send(Draining(reason="too late"))
        assert far.closed == (1000, "done")


@given(at=st.integers(0, 3), position=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_of_any_frame_ends_both_sides_with_the_cause(
    at: int, position: int, flip: int
) -> None:
    def change(data: bytes) -> list[bytes]:
        changed = bytearray(data)
        changed[position % len(data)] ^= flip
        return [bytes(changed)]

    async def scene() -> None:
        async with session() as (node, coordinator, near, _):
            near.tamper = once(change, at)
            heard = []
            for n in range(4):
                node.post(Draining(reason=str(n)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            with pytest.raises(LinkBroken) as caught:
                while True:
                    heard.append(await coordinator.receive())
            assert "cannot be unsealed" in caught.value.message
            assert heard == [Draining(reason=str(n)) for n in range(at)]
            told = await node.receive()
            assert isinstance(told, Bye) and "cannot be unsealed" in told.message

    asyncio.run(scene())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: [data, data],
        lambda data: [],
        lambda data: [data[:-1]],
        lambda data: [data[:10]],
        lambda data: [b""],
        lambda data: [data + b"\0"],
    ],
    ids=["replayed", "left out", "cut by one", "cut short", "emptied", "longer"],
)
@pytest.mark.parametrize("at", [0, 1])
async def test_a_stream_that_was_meddled_with_ends(
    change: Callable[[bytes], list[bytes]], at: int
) -> None:
    async with session() as (node, coordinator, near, _):
        near.tamper = once(change, at)
        for n in range(3):
            node.post(Draining(reason=str(n)))
            await asyncio.sleep(0.001)
        causes = await both_causes(node, coordinator)
        assert all("cannot be unsealed" in cause for cause in causes)


async def test_frames_in_another_order_end_the_session() -> None:
    async with session() as (node, coordinator, near, _):
        kept: list[bytes] = []

        def swap(data: bytes) -> list[bytes]:
            kept.append(data)
            return [] if len(kept) == 1 else [kept[1], kept[0]]

        near.tamper = swap
        node.post(Draining(reason="1"))
        await asyncio.sleep(0.001)
        node.post(Draining(reason="2"))
        causes = await both_causes(node, coordinator)
        assert all("frame 1 cannot be unsealed" in cause for cause in causes)


async def test_what_a_side_sent_cannot_be_reflected_to_it() -> None:
    async with session() as (node, coordinator, near, _):
        mirrored: list[bytes] = []
        near.tamper = lambda data: mirrored.append(data) or []  # type: ignore[func-returns-value]
        node.post(Draining(reason="to whom?"))
        await asyncio.sleep(0.001)
        near.tamper = lambda data: [data]
        await near._inbox.put(mirrored[0])
        causes = await both_causes(node, coordinator)
        assert all("cannot be unsealed" in cause for cause in causes)


async def test_a_socket_that_closes_without_a_goodbye_is_named_so() -> None:
    async with session() as (node, coordinator, near, _):
        await near.close(1006, "")
        causes = await both_causes(node, coordinator)
        assert all("without a goodbye" in cause for cause in causes)


@pytest.mark.parametrize("from_node", [True, False])
async def test_an_unknown_message_is_told_to_its_sender_and_logged_on_both_sides(
    from_node: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parhelion.link")
    async with session() as (node, coordinator, _, _):
        await (node if from_node else coordinator).send(Dance())
        causes = await both_causes(node, coordinator)
        assert all("unknown or malformed message" in cause for cause in causes)
        assert all("dance" in cause for cause in causes)
    logged = [record for record in caplog.records if "dance" in getattr(record, "cause", "")]
    assert {getattr(record, "peer", "") for record in logged} == {NODE.peer, COORDINATOR.peer}


async def test_a_message_of_the_wrong_direction_is_unknown() -> None:
    async with session() as (node, coordinator, _, _):
        await node.send(Drain(reason="I am the node"))
        causes = await both_causes(node, coordinator)
        assert all("unknown or malformed" in cause for cause in causes)


async def test_unknown_fields_are_ignored() -> None:
    async with session() as (node, coordinator, _, _):
        newer = {"t": "draining", "reason": "r", "since": 7}
        node._waiting.append(msgspec.msgpack.encode(newer))
        node._has_work.set()
        assert await coordinator.receive() == Draining(reason="r")


async def test_a_frame_over_the_limit_is_refused_unread() -> None:
    async with session() as (node, coordinator, near, _):
        near.tamper = once(lambda data: [bytes(FRAME_LIMIT_BYTES + 1)])
        node.post(Draining(reason="r"))
        causes = await both_causes(node, coordinator)
        assert all(f"over {FRAME_LIMIT_BYTES}" in cause for cause in causes)


async def test_a_message_that_fits_in_no_frame_is_its_senders_problem_only() -> None:
    async with session() as (node, coordinator, _, _):
        huge = Steps(steps=(Step("j", 1, 0, tuple(range(300_000))),))
        with pytest.raises(Problem) as caught:
            await node.send(huge)
        assert caught.value.code is ProblemCode.BODY_TOO_LARGE
        largest = Draining(reason="x" * (carrying.MESSAGE_LIMIT_BYTES - 40))
        await node.send(largest)
        assert await coordinator.receive() == largest


async def test_a_slow_reader_stops_send_and_breaks_post_at_the_bound() -> None:
    async with session() as (node, coordinator, near, _):
        gate = asyncio.Event()
        direct = near.send

        async def stuck(data: bytes) -> None:
            await gate.wait()
            await direct(data)

        near.send = stuck  # type: ignore[method-assign]
        block = Draining(reason="x" * 500_000)
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await node.send(block)
                    sent += 1
        assert sent * 500_000 <= carrying.QUEUE_LIMIT_BYTES + 1_500_000
        gate.set()
        for _ in range(sent):
            assert await coordinator.receive() == block
        gate.clear()
        with pytest.raises(LinkBroken, match="too slowly"):
            for _ in range(carrying.POST_LIMIT_BYTES // 500_000 + 2):
                node.post(block)


async def test_a_burst_of_large_prompts_is_no_slow_reader() -> None:
    async with session() as (node, coordinator, _, _):
        # 64 jobs that come at once, each with a prompt of 128k ids: none is the reader's fault.
        prompt = "x" * 640_000
        for _ in range(64):
            coordinator.post(Drain(reason=prompt))
        for _ in range(64):
            assert await node.receive() == Drain(reason=prompt)


async def test_a_reader_that_takes_nothing_is_found_by_the_time_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrying, "SEND_DEADLINE_S", 0.05)
    async with session() as (_, coordinator, _, far):
        far.send = lambda data: asyncio.sleep(60)  # type: ignore[method-assign,assignment]
        coordinator.post(Drain(reason="taken by nobody"))
        with pytest.raises(LinkBroken, match="took nothing"):
            await asyncio.wait_for(coordinator.receive(), 5)


async def test_a_long_goodbye_is_kept_and_logged_short(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parhelion.link")
    async with session() as (node, coordinator, _, _):
        words = "bye\n" * 100_000
        await node.close(Bye(code="draining", message=words, hint=words))
        heard = await coordinator.receive()
        assert isinstance(heard, Bye)
        assert heard.message.startswith("bye bye")
        assert len(heard.message) <= 200 and len(heard.hint) <= 200
        with pytest.raises(LinkBroken) as caught:
            await coordinator.receive()
        assert len(caught.value.message) < 400
    logged = [getattr(r, "cause", "") for r in caplog.records if r.msg == "link ended"]
    coordinators = [cause for cause in logged if "the other side ended" in cause]
    assert coordinators and all(len(cause) < 400 for cause in coordinators)


@pytest.mark.parametrize(
    ("code", "level"), [("draining", logging.DEBUG), ("link_refused", logging.INFO)]
)
async def test_only_an_end_that_is_a_failure_is_news(
    caplog: pytest.LogCaptureFixture, code: str, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "parhelion.link")
    async with session() as (node, coordinator, _, _):
        await node.close(Bye(code=code, message="why"))
        await coordinator.receive()
    assert [r.levelno for r in caplog.records if r.msg == "link ended"] == [level, level]


async def test_a_link_that_we_end_without_a_word_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "parhelion.link")
    async with session() as (node, coordinator, _, _):
        await node.abort()
        assert not caplog.records, "as after a knock"
        with pytest.raises(LinkBroken):
            await coordinator.receive()
        assert [r.msg for r in caplog.records] == ["link ended"], "the other side was not told"


async def test_a_send_that_was_waiting_hears_of_the_end() -> None:
    async with session() as (node, _, near, _):
        near.send = lambda data: asyncio.sleep(60)  # type: ignore[method-assign,assignment]
        for _ in range(9):
            node.post(Draining(reason="x" * 500_000))
        await asyncio.sleep(0.01)  # The writer takes one of them, and sticks.
        node.post(Draining(reason="x" * 500_000))
        waiting = asyncio.create_task(node.send(Draining(reason="last")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await node.abort()
        with pytest.raises(LinkBroken):
            await asyncio.wait_for(waiting, 1)


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with session() as (node, coordinator, _, _):
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(coordinator.receive(), 0.001)
        await node.send(Draining(reason="here"))
        assert await coordinator.receive() == Draining(reason="here")


@pytest.mark.parametrize("words", [None, b"GET / HTTP/1.1\r\n", bytes(2000)])
async def test_a_stranger_at_the_door_is_refused_with_the_cause(
    words: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = socket_pair()
    if words is not None:
        await near.send(words)
    with pytest.raises(LinkBroken) as caught:
        await accept(far, COORDINATOR, deadline_s=0.05)
    assert near.closed is not None
    code, reason = near.closed
    assert code == 4400 and reason and len(reason.encode()) <= 120
    if words is None:
        assert "silence" in caught.value.message
    assert any(getattr(record, "cause", "") for record in caplog.records)


@pytest.mark.parametrize("is_final", [True, False])
async def test_the_last_frame_and_the_bye_are_one(is_final: bool) -> None:
    async with session() as (node, coordinator, near, _):
        said = Draining(reason="r") if is_final else Bye(code="draining", message="b")
        body = msgspec.msgpack.encode([said])
        seal = node._seal.seal_final if is_final else node._seal.seal
        await near.send(seal(body))
        with pytest.raises(LinkBroken, match="without a Bye"):
            await coordinator.receive()
