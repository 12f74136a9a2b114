"""Links between nodes through a real relay endpoint and by TCP; the other node is a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from litestar import Litestar

from parhelion import api
from parhelion.api import link_socket
from parhelion.bootstrap.ready import SystemClock
from parhelion.coordinator import Relays
from parhelion.identity import NodeKey
from parhelion.link import ByteSocket, LinkBroken, PairListener, Pairs, PairTicket, Pipe
from parhelion.link.address import Address
from parhelion.link.pair_channel import dial_channel
from parhelion.link.pair_pipe import Patience
from parhelion.link.pair_relay import dial_relay
from parhelion.testing.cable import Cable
from parhelion.testing.delay import Delay

DIAL, ACCEPT, STRANGER = (NodeKey(letter * 32) for letter in (b"d", b"a", b"s"))
CHILD = Path(__file__).with_name("pair_child.py")

FOUND_S = 6.0
"""A cut link is found within this (DESIGN 4); five times that on a machine with other things."""

Tamper = Callable[[bytes], list[bytes]]


class Tampering:
    """A socket of a relay that is not honest: it changes what it passes on."""

    def __init__(self, socket: ByteSocket, tamper: Tamper) -> None:
        self.receive, self.close = socket.receive, socket.close
        self._socket, self._tamper = socket, tamper

    async def send(self, data: bytes) -> None:
        for frame in self._tamper(data):
            await self._socket.send(frame)


class Hub(Relays):
    """The coordinator's relay endpoint on a real server."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), os.urandom)
        self.tamper: Tamper | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def attend(self, socket: ByteSocket, proven: Callable[[], None] = lambda: None) -> None:
        if self.tamper is not None:
            socket = Tampering(socket, self.tamper)
        await super().attend(socket, proven)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    made = Hub()
    rooms: Any = SimpleNamespace(coordinator=SimpleNamespace(relays=made))
    app = Litestar(link_socket.handlers(rooms), openapi_config=None, logging_config=None)
    serving = await api.serve(app, socket.create_server(("127.0.0.1", 0)))
    made.port = serving.port
    yield made
    await serving.stop(1)


def node(
    hub: Hub,
    key: NodeKey,
    *,
    listener: PairListener | None = None,
    url: str | None = None,
    ping_s: float = 2.0,
) -> Pairs:
    patience = Patience(ping_s=ping_s)
    address = Address(url=url or hub.url)
    return Pairs(key, address, listener=listener, here="127.0.0.1", patience=patience)


@contextlib.asynccontextmanager
async def linked(
    hub: Hub, *, direct: bool = False, url: str | None = None, ping_s: float = 2.0
) -> AsyncIterator[tuple[Pipe, Pipe]]:
    """Both ends of a link, in this process."""
    listener = PairListener()
    await listener.start("127.0.0.1")
    named = (listener.address or "",) if direct else ()
    dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, named)
    one, other = await asyncio.gather(
        node(hub, DIAL, url=url, ping_s=ping_s).open(dial),
        node(hub, ACCEPT, listener=listener, ping_s=ping_s).open(accept),
    )
    try:
        yield one, other
    finally:
        await asyncio.gather(one.close("over"), other.close("over"), listener.stop())


class Child:
    """The accepting node as a process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process, self.address = process, address

    async def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    def tell(self, hub: Hub, ticket: PairTicket, ping_s: float = 2.0) -> None:
        assert self.process.stdin is not None
        plain = {**msgspec.structs.asdict(ticket), "secret": ticket.secret.hex()}
        said = {"url": hub.url, "seed": "a", "ticket": plain, "ping_s": ping_s}
        self.process.stdin.write(json.dumps(said).encode() + b"\n")


@contextlib.asynccontextmanager
async def child() -> AsyncIterator[Child]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), stdin=pipe, stdout=pipe
    )
    made = Child(process, "")
    try:
        made.address = (await made.told())["address"]
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def ended(pipe: Pipe, within_s: float) -> str:
    """The cause with which the pipe ends, and it must within this time."""
    async with asyncio.timeout(within_s):
        with pytest.raises(LinkBroken) as caught:
            async for _ in pipe:
                pass
    return caught.value.message


async def echoed(pipe: Pipe, frame: bytes) -> float:
    began_s = time.perf_counter()
    await pipe.send(frame)
    async with asyncio.timeout(30):
        assert await pipe.receive() == frame
    return time.perf_counter() - began_s


@pytest.mark.slow
@pytest.mark.parametrize("path", ["relay", "direct"])
async def test_two_processes_speak_over_either_path_and_the_relay_sees_no_word(
    hub: Hub, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bytes] = []
    hub.tamper = lambda data: seen.append(data) or [data]  # type: ignore[func-returns-value]
    async with child() as other:
        named = (other.address,) if path == "direct" else ()
        dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, named)
        other.tell(hub, accept)
        with Delay(hub.port, 0.01) as far:  # So that load on this machine does not decide.
            url = f"http://{far.address}" if path == "direct" else None
            pipe = await node(hub, DIAL, url=url).open(dial)
        assert await other.told() == {"path": path, "peer": DIAL.peer}
        assert (pipe.path, pipe.peer) == (path, ACCEPT.peer)
        small = statistics.median([await echoed(pipe, os.urandom(9216)) for _ in range(50)])
        secret = b"hidden states of a stranger's prompt" * 400_000
        large = min([await echoed(pipe, secret[:14_680_064]) for _ in range(3)])
        view = pipe.view()
        assert view.mbit_s is not None and view.mbit_s > 1 and 0 < view.rtt_ms < 1000
        assert view.sent_bytes > 3 * 14_680_064
        assert all(b"hidden states" not in frame for frame in seen)
        assert (sum(map(len, seen)) > 6 * 14_680_064) is (path == "relay")
        await pipe.close("done")
        assert "done" in (await other.told())["cause"]
    with capsys.disabled():
        print(
            f"\n{path}: 9,216 bytes there and back {small * 1e3:.2f} ms, 14.7 MB "
            f"{large * 1e3:.0f} ms ({2 * 14.68 / large:.0f} MB/s), {view}"
        )


async def test_a_stranger_with_a_stolen_ticket_is_no_neighbour(hub: Hub) -> None:
    dial, accept = hub.issue(DIAL.peer, ACCEPT.peer)
    outcomes = await asyncio.gather(
        # The relay checks the ticket, not the key: it lets the stranger pass for the dialler.
        _posing(hub, dial),
        node(hub, ACCEPT).open(accept),
        return_exceptions=True,
    )
    assert all(isinstance(one, LinkBroken) for one in outcomes), outcomes
    assert any("another dialling node answered" in str(one) for one in outcomes), outcomes


async def _posing(hub: Hub, ticket: PairTicket) -> Pipe:
    relay = await dial_relay(Address(url=hub.url), ticket, DIAL.peer)
    channel, rtt_s = await dial_channel(relay, STRANGER, ticket, "relay")
    return Pipe(channel, rtt_s)


def changing(change: Tamper, after: int) -> Tamper:
    """Change one data frame, after this many."""
    seen = 0

    def tamper(data: bytes) -> list[bytes]:
        nonlocal seen
        if len(data) < 5000:
            return [data]
        seen += 1
        return change(data) if seen == after else [data]

    return tamper


@pytest.mark.parametrize(
    "change",
    [
        lambda data: [data[:99] + bytes([data[99] ^ 4]) + data[100:]],
        lambda data: [data, data],
        lambda data: [],
    ],
    ids=["altered", "replayed", "dropped"],
)
async def test_a_hostile_relay_is_found_and_its_other_links_are_not_touched(
    hub: Hub, change: Tamper
) -> None:
    async with linked(hub) as (bystander, its_other):
        async with linked(hub) as (one, other):
            # From here on; the frames of the bystander are smaller, and pass.
            frames = [b"%d" % n + bytes(9000) for n in range(6)]
            hub_tamper = changing(change, 3)
            for link in hub._links.values():
                for peer, carried in link.here.items():
                    if link.bytes and peer == ACCEPT.peer:
                        link.here[peer] = Tampering(carried, hub_tamper)
            for frame in frames:
                await one.send(frame)
            heard = []
            with pytest.raises(LinkBroken, match="cannot be unsealed"):
                async with asyncio.timeout(10):
                    async for frame in other:
                        heard.append(frame)
            assert heard == frames[: len(heard)] and len(heard) <= 3
            assert "cannot be unsealed" in await ended(one, 10)
        await bystander.send(b"on")
        assert await its_other.receive() == b"on"


@pytest.mark.slow
async def test_a_stopped_neighbour_is_found_in_six_seconds(hub: Hub) -> None:
    async with child() as other:
        dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, (other.address,))
        other.tell(hub, accept)
        pipe = await node(hub, DIAL).open(dial)
        await echoed(pipe, b"alive")
        other.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        assert "silence" in await ended(pipe, FOUND_S * 5)
        print(f"a stopped neighbour found after {time.monotonic() - began_s:.1f} s")


@pytest.mark.parametrize(
    "path", [pytest.param("relay", marks=pytest.mark.slow), pytest.param("direct")]
)
async def test_a_killed_neighbour_is_found_at_once(hub: Hub, path: str) -> None:
    async with child() as other, linked(hub) as (bystander, its_other):
        named = (other.address,) if path == "direct" else ()
        dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, named)
        other.tell(hub, accept)
        pipe = await node(hub, DIAL).open(dial)
        other.process.kill()
        assert "closed" in await ended(pipe, 2 * 5)
        await bystander.send(b"on")
        assert await its_other.receive() == b"on"


async def test_a_cut_cable_is_found_by_both_sides_and_by_no_other_link(hub: Hub) -> None:
    cable = Cable(hub.port)
    ping_s = 0.4  # A fifth of what is usual, and so is what may pass until it is found.
    try:
        async with (
            linked(hub, ping_s=ping_s) as (bystander, its_other),
            linked(hub, url=f"http://{cable.address}", ping_s=ping_s) as (one, other),
        ):
            cable.cut()
            began_s = time.monotonic()
            causes = await asyncio.gather(*(ended(end, FOUND_S / 5 * 5) for end in (one, other)))
            print(f"a cut cable found after {time.monotonic() - began_s:.1f} s: {causes}")
            assert all(causes)
            await bystander.send(b"on")
            assert await its_other.receive() == b"on"
    finally:
        cable.close()


async def test_the_direct_path_is_left_for_a_shorter_relay(hub: Hub) -> None:
    listener = PairListener()
    await listener.start("127.0.0.1")
    port = int((listener.address or "").rpartition(":")[2])
    try:
        with Delay(port, 0.03) as far:
            dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, (far.address,))
            one, other = await asyncio.gather(
                node(hub, DIAL).open(dial), node(hub, ACCEPT, listener=listener).open(accept)
            )
            assert one.path == other.path == "relay"
            await one.send(b"x")
            assert await other.receive() == b"x"
            await one.close("over")
            await other.close("over")
    finally:
        await listener.stop()


async def test_a_delay_is_what_the_link_measures(hub: Hub) -> None:
    with Delay(hub.port, 0.02) as far:
        async with linked(hub, url=f"http://{far.address}") as (one, other):
            assert 40 <= one.view().rtt_ms < 200
            assert other.view().rtt_ms == one.view().rtt_ms
            await one.send(b"x")
            assert await other.receive() == b"x"


@pytest.mark.slow
async def test_without_a_direct_path_the_relay_carries(hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # It accepts, and never answers.
        port = mute.getsockname()[1]
        dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, (f"127.0.0.1:{port}", "127.0.0.1:1"))
        one, other = await asyncio.gather(
            node(hub, DIAL).open(dial), node(hub, ACCEPT).open(accept)
        )
        assert one.path == other.path == "relay"
        await asyncio.gather(one.close("over"), other.close("over"))


async def test_a_neighbour_on_the_direct_path_needs_the_ticket(hub: Hub) -> None:
    listener = PairListener()
    await listener.start("127.0.0.1")
    dial, accept = hub.issue(DIAL.peer, ACCEPT.peer, (listener.address or "",))
    forged = msgspec.structs.replace(dial, secret=bytes(32))
    waiting = asyncio.create_task(node(hub, ACCEPT, listener=listener).open(accept))
    with pytest.raises(LinkBroken):
        await node(hub, STRANGER).open(forged)
    with Delay(hub.port, 0.01) as far:
        dialling = node(hub, DIAL, url=f"http://{far.address}").open(dial)
        one, other = await asyncio.gather(dialling, waiting)
    assert one.path == other.path == "direct"
    await asyncio.gather(one.close("over"), other.close("over"), listener.stop())


async def test_a_ticket_is_refused_the_second_time(hub: Hub) -> None:
    async with linked(hub):
        pass
    dial, accept = hub.issue(DIAL.peer, ACCEPT.peer)
    pipes = await asyncio.gather(node(hub, DIAL).open(dial), node(hub, ACCEPT).open(accept))
    with pytest.raises(LinkBroken, match="taken before"):
        await node(hub, DIAL).open(dial)
    await asyncio.gather(*(pipe.close("over") for pipe in pipes))
    with pytest.raises(LinkBroken, match="no ticket"):
        await node(hub, DIAL).open(dial)
