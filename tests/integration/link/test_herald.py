"""A node that loads is told of over real sockets: to pools that know of it, and to older ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.config import NodesConfig
from parhelion.coordinator.joiners import Joiners
from parhelion.coordinator.roster import Roster
from parhelion.identity import NodeKey
from parhelion.link import (
    Bye,
    Knock,
    LinkBroken,
    Loading,
    Stay,
    Welcome,
    connect,
    parse_address,
)
from parhelion.node import Herald
from parhelion.words import ProblemCode

KEY = NodeKey(b"n" * 32)


def herald_of(dial: Any = connect) -> Herald:
    made = Herald(KEY, "tester", "1.2", clock=SystemClock(), dial=dial, jitter=lambda: 0.0)
    made.tell("checking", 3)
    return made


@contextlib.asynccontextmanager
async def running(door: Any, herald: Herald) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(herald.run(parse_address(door.address)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class NewPool:
    """A coordinator that knows of joiners; their places are the real ones."""

    def __init__(self, door: Any) -> None:
        clock = SystemClock()
        self.roster = Roster(clock)
        self.joiners = Joiners(NodesConfig(), clock, self.roster, lambda _: False, None)
        self.knocks: list[Knock] = []
        door.script = self.attend
        self._coordinator = door.key.peer

    async def attend(self, carrier: Any) -> None:
        knock = await carrier.receive()
        assert isinstance(knock, Knock)
        self.knocks.append(knock)
        welcome = Welcome(coordinator=self._coordinator, heartbeat_s=0.1, accepted=())
        await carrier.send(welcome)
        await self.joiners.attend(carrier, knock.stay, "", lambda: None)

    @property
    def shown(self) -> list[tuple[str, str, str | None, int | None]]:
        return [(one.name, one.state, one.phase, one.percent) for one in self.joiners.shown()]


async def test_a_pool_sees_a_node_come_get_further_and_go(door: Any) -> None:
    pool, herald = NewPool(door), herald_of()
    async with running(door, herald):
        await until(lambda: pool.shown == [("tester", "joining", "checking", 3)])
        herald.tell("loading", 40)
        await until(lambda: pool.shown == [("tester", "joining", "loading", 40)])
        herald.tell("proving")
        await until(lambda: pool.shown == [("tester", "joining", "proving", None)])
    await until(lambda: not pool.shown)
    assert pool.roster.shown() == (), "it went on its own account: there is nothing to tell"


async def test_why_a_node_cannot_load_is_told_by_its_code(door: Any) -> None:
    pool, herald = NewPool(door), herald_of()
    async with running(door, herald):
        await until(lambda: pool.shown)
        herald.fail(ProblemCode.ENGINE_FAILED)
    await until(lambda: not pool.shown)
    assert [one.reason for one in pool.roster.shown()] == ["it could not load: engine_failed"]


async def test_a_pool_that_was_lost_sees_it_again(door: Any) -> None:
    pool, herald = NewPool(door), herald_of()
    async with running(door, herald):
        await until(lambda: pool.shown)
        await until(lambda: herald._was_kept)
        await door.carriers[-1].abort()
        await until(lambda: len(pool.knocks) == 2 and pool.shown)


async def test_a_pool_that_is_away_at_first_sees_it_when_it_comes(door: Any) -> None:
    tries = 0

    async def dial(*where: Any) -> Any:
        nonlocal tries
        tries += 1
        return await connect(*where)

    pool, herald = NewPool(door), herald_of(dial)
    await door.stop()
    async with running(door, herald):
        await until(lambda: tries >= 2)
        await door.start()
        await until(lambda: pool.shown)


@pytest.mark.parametrize(
    ("welcomes", "bye"),
    [
        (True, Bye(code=ProblemCode.DRAINING, message="the knock is answered")),
        (False, Bye(code=ProblemCode.LINK_REFUSED, message="banned")),
    ],
)
async def test_an_older_pool_or_one_that_refuses_is_asked_once_and_left_alone(
    door: Any, welcomes: bool, bye: Bye
) -> None:
    knocks = 0

    async def attend(carrier: Any) -> None:
        nonlocal knocks
        knocks += 1
        assert isinstance(await carrier.receive(), Knock)
        if welcomes:
            hello = Welcome(coordinator=door.key.peer, heartbeat_s=2.0, accepted=())
            await carrier.send(hello)
        await carrier.close(bye)

    door.script = attend
    async with running(door, herald_of()) as task, asyncio.timeout(10):
        await asyncio.wait([task])
        assert task.exception() is None
    assert knocks == 1


async def test_an_older_node_knocks_and_is_gone(door: Any) -> None:
    pool = NewPool(door)
    carrier = await connect(parse_address(door.address), KEY)
    await carrier.send(Knock())
    async with asyncio.timeout(10):
        assert isinstance(await carrier.receive(), Welcome)
        bye = await carrier.receive()
    assert isinstance(bye, Bye) and bye.code == ProblemCode.DRAINING
    assert not pool.shown
    await carrier.abort()


async def test_a_socket_that_is_cut_without_a_word_takes_its_row_along(door: Any) -> None:
    pool, herald = NewPool(door), herald_of()
    async with running(door, herald) as task:
        await until(lambda: pool.shown)
        herald_carrier = await connect(parse_address(door.address), NodeKey(b"m" * 32))
        await herald_carrier.send(Knock(stay=Stay(name="other")))
        await until(lambda: len(pool.shown) == 2)
        with contextlib.suppress(LinkBroken):
            await herald_carrier.abort()
        await until(lambda: len(pool.shown) == 1)
        assert not task.done()


def test_a_knock_that_stays_is_a_knock_to_who_knows_of_no_stays() -> None:
    class OldKnock(msgspec.Struct, frozen=True, tag_field="t", tag="knock", kw_only=True):
        invite: str | None = None

    knock = Knock(invite="i", stay=Stay(name="tester", phase="loading", percent=1))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(knock), type=OldKnock).invite == "i"
    old = msgspec.msgpack.encode(OldKnock(invite="i"))
    assert msgspec.msgpack.decode(old, type=Knock) == Knock(invite="i")


async def test_what_happens_between_the_knock_and_its_answer_is_told_too(door: Any) -> None:
    herald, heard = herald_of(), list[Any]()

    async def attend(carrier: Any) -> None:
        assert (await carrier.receive()).stay.phase == "checking"
        herald.tell("proving")
        await carrier.send(Welcome(coordinator=door.key.peer, heartbeat_s=0.1, accepted=()))
        while True:
            heard.append(await carrier.receive())

    door.script = attend
    async with running(door, herald):
        await until(lambda: Loading(phase="proving") in heard)
