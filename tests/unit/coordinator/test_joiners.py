"""Nodes that load are shown as joining, as far as their own word may go, and never counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from parhelion.coordinator import joiners as rules
from parhelion.link import Bye, Draining, Heartbeat, Knock, Loading, Stay, Welcome
from parhelion.link.messages import FromNode
from parhelion.words import ProblemCode

STAY = Stay(name="a node", version="1", phase="checking")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def staying(pool: Any, stay: Stay = STAY, site: str = "home", **knock: Any) -> Any:
    """A fake node whose knock stays, and is answered."""
    node = pool.fake()
    node.carrier.hear(Knock(stay=stay, **knock))
    node.task = asyncio.create_task(pool.coordinator.attend(node.carrier, site=site))
    await until(lambda: node.said(Welcome) or node.carrier.bye)
    return node


def joining(pool: Any) -> dict[str, tuple[str | None, int | None]]:
    views = pool.coordinator.known_nodes()
    return {one.peer: (one.phase, one.percent) for one in views if one.state == "joining"}


async def test_a_node_that_loads_is_shown_with_its_phase_and_what_was_measured_of_it(
    pool: Any,
) -> None:
    node = await staying(pool)
    await until(lambda: joining(pool) == {node.peer: ("checking", None)})
    (view,) = pool.coordinator.known_nodes()
    assert (view.name, view.slots, view.models, view.device, view.reason) == (
        "a node", None, (), None, None,
    )  # fmt: skip
    node.carrier.hear(Loading(phase="loading", percent=42))
    await until(lambda: joining(pool) == {node.peer: ("loading", 42)})
    assert pool.coordinator.node(node.peer).percent == 42
    node.carrier.hear(Loading(phase="proving"))
    await until(lambda: joining(pool) == {node.peer: ("proving", None)})


async def test_a_joiner_is_no_node_that_serves_counts_or_is_placed(pool: Any) -> None:
    coordinator = pool.coordinator
    before = coordinator.health()
    node = await staying(pool)
    await until(lambda: joining(pool))
    assert coordinator.health() == before
    assert coordinator.nodes() == () and list(coordinator.registry.nodes()) == []
    assert not coordinator.is_here(node.peer)
    assert not coordinator.servers()


async def test_the_metric_counts_it_once(pool: Any) -> None:
    node = await staying(pool)
    await until(lambda: joining(pool))
    assert 'parhelion_nodes{state="joining"} 1.0' in pool.metrics.render().decode()
    node.carrier = type(node.carrier)(node.peer)
    node.carrier.on_said = node.obey
    await pool.join(node)
    assert 'parhelion_nodes{state="joining"} 0.0' in pool.metrics.render().decode()


async def test_a_node_that_registers_is_shown_once_and_its_stay_is_over(pool: Any) -> None:
    node = await staying(pool)
    stay, waiting = node.carrier, node.task
    node.carrier = type(stay)(node.peer)
    node.carrier.on_said = node.obey
    await pool.join(node)
    assert [(one.peer, one.state) for one in pool.coordinator.known_nodes()] == [
        (node.peer, "ready")
    ]
    async with asyncio.timeout(5):
        await waiting
    assert stay.bye.code == ProblemCode.DRAINING


async def test_a_member_that_knocks_again_is_shown_as_the_member(pool: Any) -> None:
    node = await pool.node()
    again = type(node.carrier)(node.peer)
    again.hear(Knock(stay=STAY))
    waiting = asyncio.create_task(pool.coordinator.attend(again))
    await until(lambda: again.said)
    assert [one.state for one in pool.coordinator.known_nodes()] == ["ready"]
    # Its process was lost and has begun anew: now it is on its way in, with what was counted.
    pool.coordinator.registry.member(node.peer).node.history.served = 7
    node.die()
    await until(lambda: joining(pool))
    (view,) = pool.coordinator.known_nodes()
    assert (view.state, view.served) == ("joining", 7)
    again.hear(Bye(code=ProblemCode.DRAINING, message=""))
    async with asyncio.timeout(5):
        await waiting
    assert [one.state for one in pool.coordinator.known_nodes()] == ["gone"]


async def test_a_closed_connection_takes_its_row_along_at_once(pool: Any) -> None:
    node = await staying(pool)
    await until(lambda: joining(pool))
    node.die()
    await until(lambda: not pool.coordinator.known_nodes())
    assert pool.coordinator.node(node.peer) is None


async def test_silence_of_six_seconds_takes_it_along_and_a_heartbeat_keeps_it(pool: Any) -> None:
    node, joiners, clock = await staying(pool), pool.coordinator.joiners, pool.clock
    await until(lambda: joining(pool))
    clock.s += 5.9
    joiners.sweep(clock.s, 0.0)
    node.beat()
    await asyncio.sleep(0.01)
    clock.s += 5.9
    joiners.sweep(clock.s, 0.0)
    assert joining(pool)
    clock.s += 0.2
    joiners.sweep(clock.s, 0.15)
    assert joining(pool), "what we did not listen to is not its silence"
    joiners.sweep(clock.s + 0.1, 0.0)
    assert not pool.coordinator.known_nodes()
    await until(lambda: node.carrier.bye)
    assert "silent" in node.carrier.bye.message


async def test_nobody_is_on_the_way_for_ever(pool: Any) -> None:
    node, clock = await staying(pool), pool.clock
    await until(lambda: joining(pool))
    for _ in range(int(rules.JOINING_LIMIT_S / 5) + 1):
        clock.s += 5.0
        node.beat()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pool.coordinator.joiners.sweep(clock.s, 0.0)
    (view,) = pool.coordinator.known_nodes()
    assert (view.state, view.phase, view.percent) == ("gone", None, None)
    assert view.reason == "it was joining for more than 60 minutes"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("engine_failed", "it could not load: engine_failed"),
        ("<b>my own\x07 words", "it could not load: an unknown cause"),
    ],
)
async def test_a_node_that_cannot_load_is_shown_with_its_code_and_none_of_its_words(
    pool: Any, code: str, shown: str
) -> None:
    node = await staying(pool)
    node.carrier.hear(Bye(code=code, message="<script>", hint="call me"))
    await until(lambda: not joining(pool))
    (view,) = pool.coordinator.known_nodes()
    assert (view.state, view.reason, view.connected_at_ms) == ("gone", shown, None)
    assert "script" not in repr(view)


async def test_only_who_would_be_admitted_may_stay(pool: Any) -> None:
    pool.access._mode = "invite"
    stranger = await staying(pool)
    assert stranger.carrier.bye.code == ProblemCode.LINK_REFUSED
    invite = await pool.invites.create(uses=1, ttl_s=60)
    guest = await staying(pool, invite=invite)
    assert set(joining(pool)) == {guest.peer}
    # No use of it was spent by that.
    guest.carrier = type(guest.carrier)(guest.peer)
    guest.carrier.on_said = guest.obey
    await pool.join(guest, invite)
    assert pool.coordinator.is_here(guest.peer)


@pytest.mark.parametrize(
    "stay",
    [
        Stay(name=""),
        Stay(name="bell\x07"),
        Stay(name="x" * 65),
        Stay(name="12D3KooWsomebody"),
        Stay(name="fine", version="x" * 201),
    ],
)
async def test_words_that_nobody_could_show_are_refused(pool: Any, stay: Stay) -> None:
    node = await staying(pool, stay)
    assert node.carrier.bye.code == ProblemCode.LINK_REFUSED
    assert not joining(pool)


@pytest.mark.parametrize(
    "lie",
    [
        {"t": "loading", "phase": "hacking"},
        {"t": "loading", "phase": "loading", "percent": 101},
        {"t": "loading", "phase": "loading", "percent": -1},
        {"t": "loading", "phase": "loading", "percent": "all"},
        {"t": "knock", "stay": {"name": "x", "phase": "boasting"}},
    ],
)
def test_a_phase_or_a_share_that_cannot_be_is_no_message(lie: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(lie), type=FromNode)


async def test_one_that_says_anything_else_or_far_too_much_is_shown_no_more(pool: Any) -> None:
    odd, loud = await staying(pool), await staying(pool)
    await until(lambda: len(joining(pool)) == 2)
    odd.carrier.hear(Draining(reason="tired"))
    for percent in range(100):
        loud.carrier.hear(Loading(phase="loading", percent=percent))
    await until(lambda: odd.carrier.bye and loud.carrier.bye)
    assert "Draining" in odd.carrier.bye.message
    assert "notices a second" in loud.carrier.bye.message
    assert not pool.coordinator.known_nodes()


async def test_a_site_fills_its_own_places_only_and_one_too_many_joins_unseen(pool: Any) -> None:
    many = [await staying(pool) for _ in range(rules.JOINERS_PER_SITE_LIMIT + 1)]
    assert len(joining(pool)) == rules.JOINERS_PER_SITE_LIMIT
    await until(lambda: many[-1].carrier.bye)
    # As of old: it was told that it may come.
    assert many[-1].said(Welcome) and many[-1].carrier.bye.code == ProblemCode.DRAINING
    other = await staying(pool, site="elsewhere")
    assert other.peer in joining(pool)


async def test_a_place_in_the_doorway_is_free_again_while_a_node_stays(pool: Any) -> None:
    node, left = pool.fake(), []
    node.carrier.hear(Knock(stay=STAY))
    attending = pool.coordinator.attend(node.carrier, joined=lambda: left.append(True))
    node.task = asyncio.create_task(attending)
    await until(lambda: joining(pool))
    assert left == [True]
    assert pool.coordinator.door.joining == 0


async def test_a_second_knock_of_one_key_takes_the_first_ones_place(pool: Any) -> None:
    node = await staying(pool)
    await until(lambda: joining(pool))
    again = type(node.carrier)(node.peer)
    again.hear(Knock(stay=Stay(name="a node", phase="loading", percent=7)))
    waiting = asyncio.create_task(pool.coordinator.attend(again, site="home"))
    await until(lambda: joining(pool) == {node.peer: ("loading", 7)})
    await until(lambda: node.carrier.bye)
    assert len(joining(pool)) == 1
    again.hear(Bye(code=ProblemCode.DRAINING, message=""))
    await waiting


@pytest.mark.parametrize("what", ["expel", "drain", "stop"])
async def test_a_ban_a_drain_and_a_stop_end_it_with_the_cause(pool: Any, what: str) -> None:
    node, coordinator = await staying(pool), pool.coordinator
    await until(lambda: joining(pool))
    if what == "expel":
        coordinator.expel(node.peer, "banned")
    elif what == "drain":
        coordinator.send_away(node.peer, "drained", 1.0)
    else:
        await coordinator.stop()
    assert not joining(pool)
    await until(lambda: node.carrier.bye)
    code = ProblemCode.LINK_REFUSED if what == "expel" else ProblemCode.DRAINING
    assert node.carrier.bye.code == code and node.carrier.bye.message


async def test_the_feed_tells_its_coming_its_progress_and_its_going(pool: Any) -> None:
    with pool.coordinator.feed.follow(None) as reader:
        first = await anext(reader)
        assert first.whole and not first.nodes
        node = await staying(pool)
        async with asyncio.timeout(10):
            (came,) = (await anext(reader)).nodes
            node.carrier.hear(Heartbeat(sent_at_ms=0, slots_busy=0, engine=""))
            node.carrier.hear(Loading(phase="loading", percent=50))
            (further,) = (await anext(reader)).nodes
            node.die()
            left = await anext(reader)
    shown = [msgspec.json.decode(each) for each in (came, further)]
    assert [(one["state"], one["phase"], one["percent"]) for one in shown] == [
        ("joining", "checking", None),
        ("joining", "loading", 50),
    ]
    assert left.removed == (node.peer,)
