"""A node's own door for neighbours: where it stands, and who is heard."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest

from parhelion.link import ConnectionClosed, LinkBroken, PairListener, is_near, pair_direct
from parhelion.link.pair_direct import (
    UNPROVEN_LIMIT,
    TcpSocket,
    candidates,
    dial_direct,
    parse_candidate,
)
from parhelion.link.pair_frames import SEALED_LIMIT_BYTES
from parhelion.link.pair_proof import knock

from .test_pair_handshake import TICKET, turned


@pytest.fixture
async def listener() -> AsyncIterator[PairListener]:
    made = PairListener(knock_s=0.5)
    await made.start("127.0.0.1")
    yield made
    await made.stop()


class Taken:
    def __init__(self, *, takes: bool = True) -> None:
        self.heard: asyncio.Queue[tuple[TcpSocket, bytes]] = asyncio.Queue()
        self._takes = takes

    def __call__(self, socket: TcpSocket, hello: bytes) -> bool:
        if self._takes:
            self.heard.put_nowait((socket, hello))
        return self._takes


async def gone(socket: TcpSocket) -> None:
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(5):
            await socket.receive()


async def closed(*sockets: TcpSocket) -> None:
    """All at once: an end waits for the other side's."""
    await asyncio.gather(*(socket.close(1000, "") for socket in sockets))


async def test_who_proves_an_expected_ticket_is_heard(listener: PairListener) -> None:
    taken = Taken()
    listener.expect(turned(), taken)
    assert listener.address is not None
    socket = await dial_direct(listener.address)
    await socket.send(knock(TICKET, b"hello"))
    async with asyncio.timeout(5):
        far, hello = await taken.heard.get()
    assert hello == b"hello"
    await far.send(b"x" * 100_000)
    assert len(await socket.receive()) == 100_000
    await closed(far, socket)


async def test_a_knock_that_is_sooner_than_its_ticket_waits_for_it(listener: PairListener) -> None:
    taken = Taken()
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    await asyncio.sleep(0.1)
    listener.expect(turned(), taken)
    async with asyncio.timeout(5):
        far, _ = await taken.heard.get()
    await closed(far, socket)


@pytest.mark.parametrize(
    "said",
    [
        b"garbage",
        b"",
        bytes(1000),
        knock(TICKET, b"hello")[:-1],
        knock(TICKET, b"a hello").replace(b"a hello", b"a jello"),
        knock(msgspec.structs.replace(TICKET, secret=bytes(32)), b"hello"),
    ],
    ids=["garbage", "empty", "zeros", "cut", "altered", "another secret"],
)
async def test_who_proves_nothing_is_cut_off_and_waited_for_by_nobody(
    listener: PairListener, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for: list[TcpSocket] = []

    async def linger(socket: TcpSocket) -> None:
        waited_for.append(socket)

    monkeypatch.setattr(TcpSocket, "_linger", linger)
    taken = Taken()
    listener.expect(turned(), taken)
    socket = await dial_direct(listener.address or "")
    await socket.send(said)
    await gone(socket)
    assert taken.heard.empty() and not waited_for
    await socket.close(1000, "")


async def test_a_first_frame_over_the_limit_is_refused_unread(listener: PairListener) -> None:
    reader, writer = await asyncio.open_connection(*parse_candidate(listener.address or ""))
    writer.write(struct.pack(">I", 2000))
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_forgotten_ticket_opens_nothing(listener: PairListener) -> None:
    taken = Taken()
    listener.expect(turned(), taken)
    listener.forget(TICKET.link)
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    await gone(socket)  # After the time that a knock may be early.
    assert taken.heard.empty()
    await socket.close(1000, "")


async def test_connections_that_say_nothing_are_bounded_in_number_and_time(
    listener: PairListener,
) -> None:
    slow = [await dial_direct(listener.address or "") for _ in range(UNPROVEN_LIMIT)]
    more = await dial_direct(listener.address or "")
    patient = [asyncio.create_task(gone(one)) for one in slow]
    await gone(more)
    assert not any(one.done() for one in patient), "not heard at all: those that are, still wait"
    await asyncio.gather(*patient)
    taken = Taken()
    listener.expect(turned(), taken)
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    async with asyncio.timeout(5):
        far, _ = await taken.heard.get()
    await closed(*slow, more, socket, far)


async def test_a_connection_that_nobody_takes_is_closed(listener: PairListener) -> None:
    listener.expect(turned(), Taken(takes=False))
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    await gone(socket)
    await socket.close(1000, "")


async def test_a_frame_over_the_limit_ends_the_reading(listener: PairListener) -> None:
    taken = Taken()
    listener.expect(turned(), taken)
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    far, _ = await taken.heard.get()
    socket._writer.write(struct.pack(">I", SEALED_LIMIT_BYTES + 1))
    with pytest.raises(LinkBroken, match="over"):
        await far.receive()
    await closed(far, socket)


async def test_what_is_said_last_is_heard_by_who_was_in_the_midst_of_sending(
    listener: PairListener,
) -> None:
    taken = Taken()
    listener.expect(turned(), taken)
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    async with asyncio.timeout(5):
        far, _ = await taken.heard.get()
    reading = cast("asyncio.Transport", socket._writer.transport)
    reading.pause_reading()  # It has not looked yet at what comes now.
    await socket.send(b"never read by the other side")
    for word in (b"a part", b"a goodbye"):
        await far.send(word)
    closing = asyncio.create_task(far.close(1000, ""))
    await asyncio.sleep(0.05)
    for _ in range(3):
        await socket.send(b"an ask that crosses the goodbye")
    reading.resume_reading()
    async with asyncio.timeout(5):
        assert [await socket.receive() for _ in range(2)] == [b"a part", b"a goodbye"]
        with pytest.raises(ConnectionClosed):
            await socket.receive()
        await asyncio.gather(socket.close(1000, ""), closing)


async def test_an_end_waits_for_the_other_sides_only_so_long(
    listener: PairListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_direct, "LINGER_S", 0.05)
    taken = Taken()
    listener.expect(turned(), taken)
    socket = await dial_direct(listener.address or "")
    await socket.send(knock(TICKET, b"hello"))
    async with asyncio.timeout(5):
        far, _ = await taken.heard.get()
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0)
        closing = asyncio.create_task(far.close(1000, ""))
        with pytest.raises(ConnectionClosed):
            await waiting
        with pytest.raises(ConnectionClosed):
            await far.send(b"behind the end")
        await closing
    await socket.close(1000, "")


async def test_nobody_answers_at_a_closed_port(listener: PairListener) -> None:
    address = listener.address or ""
    await listener.stop()
    assert listener.address is None
    with pytest.raises(LinkBroken, match="nobody answers"):
        await dial_direct(address)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "localhost", "192.0.2.1x", ""])
async def test_no_door_stands_where_strangers_pass(host: str) -> None:
    assert not is_near(host)
    with pytest.raises(ValueError):
        await PairListener().start(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.7", "172.16.0.1", "fd00::1"]
)
def test_loopback_and_private_addresses_are_near(host: str) -> None:
    assert is_near(host)


@pytest.mark.parametrize(
    ("named", "here", "expected"),
    [
        (("192.168.0.7:4000",), "192.168.0.9", ["192.168.0.7:4000"]),
        (("127.0.0.1:4000",), "127.0.0.1", ["127.0.0.1:4000"]),
        # Another machine's loopback is not ours.
        (("127.0.0.1:4000",), "192.168.0.9", []),
        (("127.0.0.1:4000",), None, []),
        # A coordinator cannot send nodes knocking at other people's doors.
        (("8.8.8.8:53", "example.org:80", "10.0.0.1:70000", "10.0.0.1", "x", ""), "10.0.0.2", []),
        (("169.254.169.254:80",), "10.0.0.2", []),
        (("[fd00::1]:4000",), "fd00::2", ["[fd00::1]:4000"]),
        (("[fe80::1%eth0]:4000",), "fe80::2", []),
        (
            tuple(f"10.0.0.{n}:4000" for n in range(9)),
            "10.0.0.2",
            [f"10.0.0.{n}:4000" for n in range(4)],
        ),
    ],
)
def test_only_candidates_worth_a_try_are_tried(
    named: tuple[str, ...], here: str | None, expected: list[str]
) -> None:
    assert candidates(named, here) == expected
