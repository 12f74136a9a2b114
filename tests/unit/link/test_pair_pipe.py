"""A pipe over a wire in memory that an adversary holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from parhelion.link import LinkBroken, PairTicket, Pipe
from parhelion.link.broken import broken
from parhelion.link.pair_channel import Channel, Path, accept_channel, dial_channel
from parhelion.link.pair_frames import PAIR_LIMIT_BYTES, PIECE_BYTES, Kind, use
from parhelion.link.pair_pipe import HELD_LIMIT, PATIENCE, Patience
from parhelion.link.pair_race import Race, Tried, choose
from parhelion.link.seal import Seal
from parhelion.testing.sockets import MemorySocket, socket_pair
from parhelion.words import Problem, ProblemCode

from .test_pair_handshake import ACCEPTOR, DIALLER, TICKET, turned

LARGE = 512 * 7168 * 4
"""A micro-batch of a large model in fp32."""


async def channels(near: MemorySocket, far: MemorySocket) -> tuple[Channel, Channel]:
    async def dial() -> Channel:
        channel, rtt_s = await dial_channel(near, DIALLER, TICKET, "relay")
        await channel.send(Kind.USE, use(rtt_s))
        return channel

    dialled, (accepted, rtt_s) = await asyncio.gather(
        dial(), accept_channel(far, ACCEPTOR, turned(), "relay")
    )
    assert 0 < rtt_s < 1
    return dialled, accepted


@asynccontextmanager
async def pipes(
    patience: Patience = PATIENCE,
) -> AsyncIterator[tuple[Pipe, Pipe, MemorySocket, MemorySocket]]:
    near, far = socket_pair()
    one, other = await channels(near, far)
    dialler, acceptor = Pipe(one, 0.001, patience), Pipe(other, 0.001, patience)
    try:
        yield dialler, acceptor, near, far
    finally:
        await asyncio.gather(dialler.close("over"), acceptor.close("over"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event for a test
            await asyncio.sleep(0.01)


async def cause_of(pipe: Pipe) -> str:
    async with asyncio.timeout(5):
        while True:
            try:
                await pipe.receive()
            except LinkBroken as cause:
                return cause.message


@pytest.mark.parametrize(
    "size", [0, 1, 9216, PIECE_BYTES, PIECE_BYTES + 1, LARGE], ids=lambda size: f"{size}B"
)
async def test_a_frame_of_any_size_arrives_whole_and_in_order(size: int) -> None:
    async with pipes() as (dialler, acceptor, _, _):
        frames = [os.urandom(size), b"between", os.urandom(size)]
        for frame in frames:
            await dialler.send(frame)
        async with asyncio.timeout(10):
            assert [await acceptor.receive() for _ in frames] == frames
        await acceptor.send(b"back")
        assert await dialler.receive() == b"back"


async def test_a_frame_over_the_limit_is_the_senders_problem_and_the_pipe_goes_on() -> None:
    async with pipes() as (dialler, acceptor, _, _):
        with pytest.raises(Problem) as caught:
            await dialler.send(bytes(PAIR_LIMIT_BYTES + 1))
        assert caught.value.code is ProblemCode.BODY_TOO_LARGE
        await dialler.send(b"small")
        assert await acceptor.receive() == b"small"


def once(change: Callable[[bytes], list[bytes]], at: int) -> Callable[[bytes], list[bytes]]:
    """A tamperer that touches only frame number `at` of those it sees."""
    seen = -1

    def tamper(data: bytes) -> list[bytes]:
        nonlocal seen
        seen += 1
        return change(data) if seen == at else [data]

    return tamper


def flipped(data: bytes) -> list[bytes]:
    return [data[:30] + bytes([data[30] ^ 1]) + data[31:]]


def swapper() -> Callable[[bytes], list[bytes]]:
    kept: list[bytes] = []

    def tamper(data: bytes) -> list[bytes]:
        kept.append(data)
        return [] if len(kept) == 1 else [kept[1], kept[0]] if len(kept) == 2 else [data]

    return tamper


@pytest.mark.parametrize(
    ("tamper", "cause"),
    [
        (once(flipped, 1), "cannot be unsealed"),
        (once(lambda data: [data, data], 1), "cannot be unsealed"),
        (once(lambda data: [], 1), "cannot be unsealed"),
        (once(lambda data: [data[:-1]], 1), "cannot be unsealed"),
        (once(lambda data: [b""], 1), "cannot be unsealed"),
        (once(lambda data: [os.urandom(60)], 1), "cannot be unsealed"),
        (once(lambda data: [bytes(PIECE_BYTES + 200)], 1), "over"),
        (swapper(), "cannot be unsealed"),
    ],
    ids=["altered", "replayed", "dropped", "cut", "empty", "invented", "oversize", "reordered"],
)
async def test_a_hostile_relay_ends_the_pipe_for_both_and_delivers_nothing_after(
    tamper: Callable[[bytes], list[bytes]], cause: str
) -> None:
    async with pipes() as (dialler, acceptor, near, _):
        near.tamper = tamper
        for number in range(4):
            await dialler.send(b"%d" % number)
        heard: list[bytes] = []
        with pytest.raises(LinkBroken, match=cause):
            async with asyncio.timeout(5):
                async for frame in acceptor:
                    heard.append(frame)
        # A replayed frame came once before; nothing after the tampering is ever delivered.
        assert heard in ([], [b"0"], [b"0", b"1"])
        assert cause in await cause_of(dialler), "the other side is told why"


async def test_a_relay_that_closes_quietly_is_no_goodbye() -> None:
    async with pipes() as (dialler, acceptor, near, _):
        await near.close(1000, "")
        assert "without a goodbye" in await cause_of(dialler)
        assert "without a goodbye" in await cause_of(acceptor)


async def test_what_was_sent_before_a_goodbye_is_delivered_with_it() -> None:
    async with pipes() as (dialler, acceptor, _, _):
        for number in range(20):
            await dialler.send(b"%d" % number)
        await dialler.close("the pipeline is rebuilt")
        heard = []
        with pytest.raises(LinkBroken, match="the pipeline is rebuilt"):
            async for frame in acceptor:
                heard.append(frame)
        assert heard == [b"%d" % number for number in range(20)]
        for pipe in (dialler, acceptor):
            with pytest.raises(LinkBroken):
                await pipe.send(b"too late")


class Forger:
    """The proven neighbour itself, breaking the rules of the pieces inside the seal."""

    def __init__(self, channel: Channel) -> None:
        self._seal: Seal = channel._seal
        self._socket = channel._socket
        self.channel = channel

    async def say(self, packed: bytes, *, last: bool = False) -> None:
        seal = self._seal.seal_final if last else self._seal.seal
        await self._socket.send(seal(packed))


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("gap", "came where"),
        ("again", "came where"),
        ("use", "chosen twice"),
        ("bye in the middle", "goodbye"),
        ("end without bye", "goodbye"),
        ("long ping", "ping of 9"),
        ("too large", "over"),
        ("endless", "were due"),
    ],
)
async def test_a_neighbour_that_breaks_a_rule_is_dropped_with_the_cause(
    what: str, cause: str
) -> None:
    near, far = socket_pair()
    one, other = await channels(near, far)
    forger, pipe = Forger(one), Pipe(other, 0.001)
    made = one._packed
    if what == "gap":
        made(Kind.DATA, b"lost", None)
        await forger.say(made(Kind.DATA, b"x", None))
    elif what == "again":
        piece = made(Kind.DATA, b"x", None)
        await forger.say(piece)
        await forger.say(piece)
    elif what == "use":
        await forger.say(made(Kind.USE, use(0.1), None))
    elif what == "bye in the middle":
        await forger.say(made(Kind.BYE, b"", None))
    elif what == "end without bye":
        await forger.say(made(Kind.DATA, b"", None), last=True)
    elif what == "long ping":
        await forger.say(made(Kind.PING, bytes(9), None))
    elif what == "too large":
        await forger.say(made(Kind.DATA, b"x", PAIR_LIMIT_BYTES + 1))
    else:
        for _ in range(2):
            await forger.say(made(Kind.DATA, b"x", 1000))
    assert cause in await cause_of(pipe)
    await pipe.close("over")


async def test_a_silent_neighbour_is_found_after_three_pings() -> None:
    async with pipes(Patience(ping_s=0.05)) as (dialler, _, near, far):
        loop = asyncio.get_running_loop()
        near.tamper = far.tamper = lambda data: []
        began_s = loop.time()
        assert "silence" in await cause_of(dialler)
        assert 0.1 < loop.time() - began_s < 0.15 * 5


async def test_pings_alone_keep_a_quiet_pipe_alive_and_measure_it() -> None:
    async with pipes(Patience(ping_s=0.2)) as (dialler, acceptor, _, _):
        await asyncio.sleep(0.8)  # Three pings without an answer, 0.6 s, would be silence.
        assert dialler.cause is None and acceptor.cause is None
        assert 0 < dialler.view().rtt_ms < 500


async def test_a_neighbour_that_is_alive_and_takes_nothing_ends_the_pipe() -> None:
    async with pipes(Patience(ping_s=0.1, stall_s=0.3)) as (dialler, acceptor, _, _):
        frame = bytes(8 * 1024 * 1024)
        with pytest.raises(LinkBroken, match=r"took nothing for 0\.3 s"):
            async with asyncio.timeout(10):
                while True:  # Its owner never receives; its pings come all the time.
                    await dialler.send(frame)
        while acceptor._heard:
            assert await acceptor.receive() == frame, "what arrived whole is delivered"
        assert "reads" not in await cause_of(acceptor)


async def test_a_reader_that_is_behind_holds_a_bounded_amount_and_the_sender_waits() -> None:
    async with pipes() as (dialler, acceptor, _, _):

        async def flood() -> None:
            while True:
                await dialler.send(bytes(4 * 1024 * 1024))

        flooding = asyncio.create_task(flood())
        await until(lambda: not dialler._has_room.is_set() and not acceptor._has_place.is_set())
        await asyncio.sleep(0.1)
        held = sum(len(frame) for frame in acceptor._heard)
        assert PAIR_LIMIT_BYTES < held <= PAIR_LIMIT_BYTES + 4 * 1024 * 1024
        assert dialler._waiting_bytes <= PAIR_LIMIT_BYTES + 5 * 1024 * 1024
        assert dialler.cause is None and acceptor.cause is None
        flooding.cancel()
        for _ in range(len(acceptor._heard)):
            await acceptor.receive()
        async with asyncio.timeout(5):
            await acceptor.receive()


async def test_empty_frames_are_bounded_by_their_number() -> None:
    async with pipes() as (dialler, acceptor, _, _):
        for _ in range(HELD_LIMIT + 300):
            await dialler.send(b"")
        await until(lambda: len(acceptor._heard) >= HELD_LIMIT)
        await asyncio.sleep(0.05)
        assert len(acceptor._heard) == HELD_LIMIT
        for _ in range(HELD_LIMIT + 300):
            async with asyncio.timeout(5):
                assert await acceptor.receive() == b""


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with pipes() as (dialler, acceptor, _, _):
        for _ in range(5):
            waiting = asyncio.create_task(acceptor.receive())
            await asyncio.sleep(0)
            waiting.cancel()
        await dialler.send(b"kept")
        assert await acceptor.receive() == b"kept"


async def test_warming_measures_the_rate_and_delivers_no_frame() -> None:
    async with pipes() as (dialler, acceptor, _, _):
        await asyncio.gather(dialler.warm(), acceptor.warm())
        for pipe in (dialler, acceptor):
            view = pipe.view()
            assert view.mbit_s is not None and view.mbit_s > 1
            assert view.sent_bytes < 2 * 1024 * 1024, "the burst is bounded"
        await dialler.send(b"first")
        assert await acceptor.receive() == b"first"


async def test_a_ping_is_answered_between_the_pieces_of_a_long_frame() -> None:
    async with pipes(Patience(ping_s=0.05)) as (dialler, acceptor, near, _):
        sends = near.send

        async def slow(data: bytes) -> None:
            await asyncio.sleep(0.01)
            await sends(data)

        near.send = slow  # type: ignore[method-assign]
        await dialler.send(bytes(200 * PIECE_BYTES))  # Two seconds at this pace.
        await asyncio.sleep(0.5)
        assert acceptor.view().rtt_ms < 400
        assert not acceptor._heard, "the frame is still on its way"


class Told:
    """A channel as a race sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True


def tried(path: Path, rtt_ms: float) -> Tried:
    return Tried(Told(path), rtt_ms / 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answered", "path"),
    [
        ([tried("relay", 1.0), tried("direct", 0.2)], "direct"),
        ([tried("relay", 1.0), tried("direct", 2.9)], "direct"),
        ([tried("relay", 1.0), tried("direct", 3.1)], "relay"),
        ([tried("direct", 30.0), tried("relay", 2.0)], "relay"),
        ([tried("relay", 9.0)], "relay"),
    ],
)
def test_the_shorter_path_is_taken_and_the_direct_one_on_ties(
    answered: list[Tried], path: Path
) -> None:
    assert choose(answered).channel.path == path


async def test_of_a_race_only_the_kept_channel_survives() -> None:
    kept, late = tried("direct", 1.0), tried("relay", 1.0)
    never = asyncio.Event()

    async def answer(what: Tried) -> Tried:
        return what

    async def fail() -> Tried:
        raise broken("nobody answers")

    async def wait() -> Tried:
        await never.wait()
        return late

    async with Race(answer(kept), answer(late), fail(), wait()) as race:
        await race.all(0.05)
        assert race.running == 1 and len(race.answered()) == 2
        race.kept = kept.channel
    assert not kept.channel.is_closed and late.channel.is_closed  # type: ignore[attr-defined]


async def test_a_race_that_all_lose_names_every_cause() -> None:
    async def fail(why: str) -> Tried:
        raise broken(why)

    with pytest.raises(LinkBroken, match="the relay is full; no answer"):
        async with Race(fail("the relay is full"), fail("no answer")) as race:
            await race.first()


def test_tickets_of_these_tests_are_what_they_say() -> None:
    assert isinstance(TICKET, PairTicket) and turned().peer == DIALLER.peer


def test_a_round_trip_is_measured_where_the_loop_counts_whole_milliseconds() -> None:
    """As uvloop does: on one machine a round trip was 0 then, and taken for none at all."""

    class Coarse(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() // 1000.0 * 1000.0 if self.is_coarse else super().time()

        is_coarse = False

    async def measured() -> float:
        near, far = socket_pair()

        async def dial() -> float:
            channel, rtt_s = await dial_channel(near, DIALLER, TICKET, "relay")
            await channel.send(Kind.USE, use(rtt_s))
            return rtt_s

        loop.is_coarse = True  # Nothing here waits for a timer.
        try:
            rtt_s, accepted = await asyncio.gather(
                dial(), accept_channel(far, ACCEPTOR, turned(), "relay")
            )
        finally:
            loop.is_coarse = False
        assert accepted[1] == rtt_s, "both ends know it"
        return rtt_s

    loop = Coarse()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert 0 < runner.run(measured()) < 5
