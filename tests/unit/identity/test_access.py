"""Who may join: invites are counted in the database, banned keys are refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion import identity, ledger
from parhelion.identity import Invites, NodeAccess, NodeKey, Succession, peer_of, succeed
from parhelion.identity.access import Mode
from parhelion.identity.invites import INVITES_LIMIT
from parhelion.store import Statement, Store
from parhelion.words import AssetClass, Problem, ProblemCode

KEY, NEW = NodeKey(bytes(32)), NodeKey(bytes(range(32)))
PEER = KEY.peer
MakeAccess = Callable[..., Awaitable[NodeAccess]]


@pytest.fixture
def invites(store: Store, clock: Any) -> Invites:
    return Invites(store, clock)


@pytest.fixture
def access(store: Store, clock: Any, invites: Invites) -> MakeAccess:
    async def make(mode: Mode, allowed: tuple[str, ...] = ()) -> NodeAccess:
        made = NodeAccess(store, clock, invites, mode, allowed)
        await made.load()
        return made

    return make


async def refused(attempt: Awaitable[object], code: str = ProblemCode.LINK_REFUSED) -> Problem:
    with pytest.raises(Problem) as caught:
        await attempt
    assert caught.value.code == code
    return caught.value


# --- invites ----------------------------------------------------------------------------------


async def test_an_invite_opens_as_often_as_it_says(invites: Invites) -> None:
    secret = await invites.create(uses=2, ttl_s=60)
    assert len(secret) == 22
    await invites.redeem(secret, PEER)
    await invites.redeem(secret, NEW.peer)
    await refused(invites.redeem(secret, PEER))


async def test_of_many_that_race_for_one_use_one_gets_it(invites: Invites) -> None:
    secret = await invites.create(uses=1, ttl_s=60)
    peers = [peer_of(bytes([n]) * 32) for n in range(30)]
    outcomes = await asyncio.gather(
        *(invites.redeem(secret, peer) for peer in peers), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, Problem) for outcome in outcomes) == 29


async def test_an_invite_expires_by_the_clock(invites: Invites, clock: Any) -> None:
    secret = await invites.create(uses=5, ttl_s=60)
    clock.ms += 59_999
    await invites.redeem(secret, PEER)
    clock.ms += 1
    await refused(invites.redeem(secret, PEER))


@pytest.mark.parametrize("secret", ["", "x", "A" * 22, "A" * 10**6, "é" * 22])
async def test_a_guessed_invite_opens_nothing(invites: Invites, secret: str) -> None:
    await invites.create(uses=5, ttl_s=60)
    await refused(invites.redeem(secret, PEER))


async def test_an_invite_is_not_in_the_file(invites: Invites, store: Store, tmp_path: Path) -> None:
    secret = await invites.create(uses=5, ttl_s=60)
    await store.backup(tmp_path / "copy")
    assert secret.encode() not in (tmp_path / "copy").read_bytes()


@pytest.mark.parametrize(("uses", "ttl_s"), [(0, 60), (10_001, 60), (1, 0), (1, 400 * 86_400)])
async def test_an_invite_without_bounds_is_not_made(
    invites: Invites, uses: int, ttl_s: int
) -> None:
    await refused(invites.create(uses=uses, ttl_s=ttl_s), ProblemCode.INVALID_REQUEST)


async def test_live_invites_are_bounded_and_dead_ones_go(invites: Invites, clock: Any) -> None:
    made = await asyncio.gather(
        *(invites.create(uses=1, ttl_s=60) for _ in range(INVITES_LIMIT + 1)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Problem) for each in made) == 1
    clock.ms += 60_000
    await invites.create(uses=1, ttl_s=60)


# --- admission --------------------------------------------------------------------------------


async def test_an_open_pool_admits_everybody_and_writes_nobody_down(
    access: MakeAccess, store: Store
) -> None:
    await (await access("open")).admit(PEER, None)
    assert await store.read("SELECT * FROM node_access") == []


async def test_an_invited_node_needs_its_invite_once(access: MakeAccess, invites: Invites) -> None:
    pool = await access("invite")
    problem = await refused(pool.admit(PEER, None))
    assert "#INVITE" in problem.hint
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.admit(PEER, secret)
    await pool.admit(PEER, None)
    await pool.admit(PEER, secret)
    await (await access("invite")).admit(PEER, None)
    await refused(pool.admit(NEW.peer, secret))


async def test_a_node_that_is_known_spends_no_use(access: MakeAccess, invites: Invites) -> None:
    pool = await access("invite")
    secret = await invites.create(uses=2, ttl_s=60)
    for _ in range(5):
        await pool.admit(PEER, secret)
    await pool.admit(NEW.peer, secret)


async def test_a_list_admits_who_is_on_it_only(access: MakeAccess, invites: Invites) -> None:
    pool = await access("list", (PEER,))
    await pool.admit(PEER, None)
    secret = await invites.create(uses=1, ttl_s=60)
    problem = await refused(pool.admit(NEW.peer, secret))
    assert NEW.peer in problem.hint
    await pool.allow(NEW.peer)
    await pool.admit(NEW.peer, None)
    await (await access("list")).admit(NEW.peer, None)


async def test_one_who_came_by_invite_is_not_on_the_list(
    access: MakeAccess, invites: Invites
) -> None:
    await (await access("invite")).admit(PEER, await invites.create(uses=1, ttl_s=60))
    await refused((await access("list")).admit(PEER, None))


@pytest.mark.parametrize("mode", ["open", "invite", "list"])
async def test_a_banned_key_is_refused_at_once_in_every_mode(
    access: MakeAccess, invites: Invites, mode: Mode
) -> None:
    pool = await access(mode, (PEER,))
    await pool.admit(PEER, None)
    banning = asyncio.create_task(pool.ban(PEER, "seen cheating"))
    await asyncio.sleep(0)
    await refused(pool.admit(PEER, None))
    await banning
    secret = await invites.create(uses=1, ttl_s=60)
    await refused(pool.admit(PEER, secret))
    await refused((await access(mode, (PEER,))).admit(PEER, secret))
    await pool.allow(PEER)
    await pool.admit(PEER, None)


async def test_a_ban_wins_over_an_admission_on_its_way(
    access: MakeAccess, invites: Invites
) -> None:
    pool = await access("invite")
    secret = await invites.create(uses=1, ttl_s=60)
    banning = asyncio.create_task(pool.ban(PEER, "now"))
    admitting = asyncio.create_task(pool._redeem(PEER, secret))
    await banning
    await refused(admitting)
    await refused(pool.admit(PEER, secret))
    # The refused unit took the use back with it.
    await pool.admit(NEW.peer, secret)


@pytest.mark.parametrize("turns", range(8))
async def test_a_node_that_is_banned_while_its_invite_is_spent_is_not_admitted(
    access: MakeAccess, invites: Invites, turns: int
) -> None:
    pool = await access("invite")
    secret = await invites.create(uses=1, ttl_s=60)
    admitting = asyncio.create_task(pool.admit(PEER, secret))
    for _ in range(turns):
        await asyncio.sleep(0)
    if admitting.done():
        await admitting
    banning = asyncio.create_task(pool.ban(PEER, "now"))
    await asyncio.wait([admitting, banning])
    await banning
    if admitting.exception() is None:
        # It was in before anybody said otherwise: the last look before it becomes a member.
        with pytest.raises(Problem):
            pool.refuse_ended(PEER)
    await refused(pool.admit(PEER, secret))


async def test_a_ban_that_was_not_written_does_not_count(access: MakeAccess, store: Store) -> None:
    pool = await access("open")
    await store.close()
    await refused(pool.ban(PEER, "x"), ProblemCode.STORE_UNAVAILABLE)
    await pool.admit(PEER, None)


async def test_a_bans_reason_is_told_also_after_a_restart(access: MakeAccess) -> None:
    pool = await access("open")
    await pool.ban(PEER, "it lied")
    for again in (pool, await access("open")):
        problem = await refused(again.admit(PEER, None))
        assert problem.message == "this node was banned by the pool's owner: it lied"
        assert "nodes allow" in problem.hint
    await pool.ban(PEER, "")
    problem = await refused((await access("open")).admit(PEER, None))
    assert problem.message == "this node was banned by the pool's owner"


async def test_a_drain_outlasts_a_restart_and_changes_nobodys_access(
    access: MakeAccess, invites: Invites
) -> None:
    pool = await access("invite")
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.admit(PEER, secret)
    draining = asyncio.create_task(pool.drains.drain(PEER, "new fan"))
    await asyncio.sleep(0)
    await refused(pool.admit(PEER, None), ProblemCode.DRAINING)
    assert await draining == "drained by the pool's owner: new fan"
    again = await access("invite")
    problem = await refused(again.consider(PEER, None), ProblemCode.DRAINING)
    assert "new fan" in problem.message and f"nodes undrain {PEER}" in problem.hint
    await pool.ban(PEER, "worse")
    await refused(pool.admit(PEER, None), ProblemCode.LINK_REFUSED)
    await pool.allow(PEER)
    await refused(pool.admit(PEER, None), ProblemCode.DRAINING)
    await pool.drains.undrain(PEER)
    await pool.admit(PEER, None)
    await (await access("invite")).admit(PEER, None)


async def test_a_drained_node_spends_no_invite(access: MakeAccess, invites: Invites) -> None:
    pool = await access("invite")
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.drains.drain(PEER, "")
    await refused(pool.admit(PEER, secret), ProblemCode.DRAINING)
    await pool.admit(NEW.peer, secret)


async def test_a_drain_that_was_not_written_does_not_count(
    access: MakeAccess, store: Store
) -> None:
    pool = await access("open")
    await store.close()
    await refused(pool.drains.drain(PEER, "x"), ProblemCode.STORE_UNAVAILABLE)
    await pool.admit(PEER, None)


async def test_of_a_drain_and_its_undoing_the_later_word_stands(
    access: MakeAccess,
) -> None:
    pool = await access("open")
    await pool.drains.drain(PEER, "first")
    undraining = asyncio.create_task(pool.drains.undrain(PEER))
    await asyncio.sleep(0)
    draining = asyncio.create_task(pool.drains.drain(PEER, "second"))
    while not draining.done():
        await asyncio.sleep(0)
        assert pool.drains.reason(PEER) is not None, "from the word on, and not from its row on"
    await asyncio.gather(undraining, draining)
    for one in (pool, await access("open")):
        problem = await refused(one.admit(PEER, None), ProblemCode.DRAINING)
        assert "second" in problem.message
    draining = asyncio.create_task(pool.drains.drain(PEER, "third"))
    await asyncio.sleep(0)
    await asyncio.gather(pool.drains.undrain(PEER), draining)
    for one in (pool, await access("open")):
        await one.admit(PEER, None)


async def test_of_a_ban_and_an_allowance_the_later_word_stands(access: MakeAccess) -> None:
    pool = await access("open")
    allowing = asyncio.create_task(pool.allow(PEER))
    await asyncio.sleep(0)
    banning = asyncio.create_task(pool.ban(PEER, "it lied"))
    while not banning.done():
        await asyncio.sleep(0)
        with pytest.raises(Problem):
            pool.refuse_ended(PEER)
    await asyncio.gather(allowing, banning)
    for one in (pool, await access("open")):
        problem = await refused(one.admit(PEER, None))
        assert "it lied" in problem.message
    await pool.allow(PEER)
    await pool.admit(PEER, None)


async def test_what_is_remembered_of_peers_is_listed_the_latest_first(
    access: MakeAccess, invites: Invites, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = NodeKey(bytes([7] * 32)).peer
    pool = await access("invite", (NEW.peer, third))
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.admit(PEER, secret)
    await pool.ban(third, "it lied")

    async def seen(state: Any = None) -> list[tuple[str, str, str]]:
        found, more = await pool.decisions(state)
        assert not more
        return [(one.peer, one.state, one.reason) for one in found]

    banned, listed = (third, "banned", "it lied"), (NEW.peer, "allowed", "config")
    assert await seen() == [banned, listed], "who came with an invite was not decided about"
    assert await seen("admitted") == [(PEER, "admitted", "invite")]
    assert await seen("allowed") == [listed], "a ban goes before the settings"
    await pool.succeed(succeed(KEY, NEW.peer, clock.now_ms()))
    (ended,), _ = await pool.decisions("succeeded")
    assert (ended.peer, ended.next, ended.at_ms) == (PEER, NEW.peer, clock.now_ms())
    monkeypatch.setattr("parhelion.identity.decisions.DECISIONS_LIMIT", 1)
    found, more = await pool.decisions(None)
    assert more and len([one for one in found if one.at_ms is not None]) == 1


async def test_the_name_that_a_node_had_is_remembered_with_what_was_decided(
    access: MakeAccess, invites: Invites, clock: Any
) -> None:
    third = NodeKey(bytes([7] * 32)).peer
    pool = await access("invite")
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.admit(PEER, secret, name="node1")
    await pool.ban(NEW.peer, "it lied", "node2")
    await pool.drains.drain(third, "fan", "node3")
    await pool.drains.drain(third, "fan, still")

    def names(one: NodeAccess) -> list[str | None]:
        return [one.name_of(peer) for peer in (PEER, NEW.peer, third)]

    for one in (pool, await access("invite")):
        assert names(one) == ["node1", "node2", "node3"]
    await pool.allow(NEW.peer)
    await pool.allow(third, identity.node_name(third))
    await pool.drains.undrain(third)
    for one in (pool, await access("invite")):
        assert names(one) == ["node1", "node2", None], "the key's own name is nobody's choice"


async def test_near_lets_in_who_comes_from_this_machine_and_asks_all_others_for_an_invite(
    access: MakeAccess, invites: Invites
) -> None:
    pool = await access("near")
    await pool.admit(PEER, None, "near")
    await pool.consider(PEER, None, "near")
    assert "by invite" in (await refused(pool.admit(PEER, None, "far"))).message
    assert "by invite" in (await refused(pool.consider(PEER, None))).message
    secret = await invites.create(uses=1, ttl_s=60)
    await pool.admit(PEER, secret, "far")
    await pool.admit(PEER, None, "far")
    for mode in ("invite", "list"):
        await refused((await access(mode)).admit(NEW.peer, None, "near"))


async def test_bans_of_an_older_file_are_kept(tmp_path: Path, clock: Any) -> None:
    older = (*ledger.MIGRATIONS, identity.MIGRATIONS[0])
    file = await Store.open(tmp_path / "old", older, AssetClass.LOCAL, clock)
    insert = "INSERT INTO node_access(peer, state, reason, next, at_ms) VALUES (?, ?, ?, ?, 1)"
    rows = ((PEER, "revoked", "it lied", None), (NEW.peer, "succeeded", "", PEER))
    await file.commit([Statement("test", insert, row, rows=1) for row in rows])
    await file.close()
    newer = (*ledger.MIGRATIONS, *identity.MIGRATIONS)
    file = await Store.open(tmp_path / "old", newer, AssetClass.LOCAL, clock)
    pool = NodeAccess(file, clock, Invites(file, clock), "open", ())
    await pool.load()
    assert "banned by the pool's owner: it lied" in (await refused(pool.admit(PEER, None))).message
    assert "succeeded by another" in (await refused(pool.admit(NEW.peer, None))).message
    kept = await file.read("SELECT next FROM node_access WHERE peer = ?", (NEW.peer,))
    assert kept[0][0] == PEER
    await file.close()


async def test_a_malformed_peer_id_is_refused_everywhere(access: MakeAccess) -> None:
    pool = await access("open")
    await refused(pool.admit("12D3KooW", None), ProblemCode.INVALID_REQUEST)
    await refused(pool.ban("12D3KooW", ""), ProblemCode.INVALID_REQUEST)
    await refused(access("list", ("12D3KooW",)), ProblemCode.INVALID_REQUEST)


# --- succession -------------------------------------------------------------------------------


async def test_a_new_key_takes_the_place_of_the_old_one(
    access: MakeAccess, invites: Invites, clock: Any
) -> None:
    pool = await access("invite")
    await pool.admit(PEER, await invites.create(uses=1, ttl_s=60))
    await pool.succeed(succeed(KEY, NEW.peer, clock.ms))
    for each in (pool, await access("invite")):
        await each.admit(NEW.peer, None)
        await refused(each.admit(PEER, None))
        await refused(each.allow(PEER), ProblemCode.CONFLICT)


async def test_a_listed_key_hands_its_place_on(access: MakeAccess, clock: Any) -> None:
    pool = await access("list", (PEER,))
    await pool.succeed(succeed(KEY, NEW.peer, clock.ms))
    for each in (pool, await access("list", (PEER,))):
        await each.admit(NEW.peer, None)
        await refused(each.admit(PEER, None))


async def test_only_the_old_key_names_its_successor(access: MakeAccess, clock: Any) -> None:
    pool = await access("list", (PEER,))
    good = succeed(KEY, NEW.peer, clock.ms)
    stranger = NodeKey(b"s" * 32)
    forged = [
        msgspec.structs.replace(good, new=stranger.peer),
        msgspec.structs.replace(good, old=stranger.peer),
        msgspec.structs.replace(good, at_ms=good.at_ms - 1),
        msgspec.structs.replace(good, signature=good.signature + "="),
        msgspec.structs.replace(good, signature=""),
        Succession(old=PEER, new=NEW.peer, at_ms=clock.ms, signature="A" * 86),
        succeed(KEY, PEER, clock.ms),
        succeed(KEY, NEW.peer, clock.ms + 3_600_000),
        succeed(KEY, NEW.peer, -1),
    ]
    for each in forged:
        await refused(pool.succeed(each))
    await pool.admit(PEER, None)


async def test_a_key_that_was_never_here_hands_nothing_on(access: MakeAccess, clock: Any) -> None:
    await refused((await access("invite")).succeed(succeed(KEY, NEW.peer, clock.ms)))


async def test_a_revoked_key_names_no_successor_and_is_none(access: MakeAccess, clock: Any) -> None:
    pool = await access("list", (PEER,))
    await pool.ban(PEER, "stolen")
    await refused(pool.succeed(succeed(KEY, NEW.peer, clock.ms)))
    await pool.allow(PEER)
    await pool.ban(NEW.peer, "banned")
    await refused(pool.succeed(succeed(KEY, NEW.peer, clock.ms)))
    await pool.admit(PEER, None)


async def test_a_key_is_succeeded_once(access: MakeAccess, clock: Any) -> None:
    pool = await access("list", (PEER,))
    third = NodeKey(b"t" * 32)
    outcomes = await asyncio.gather(
        pool.succeed(succeed(KEY, NEW.peer, clock.ms)),
        pool.succeed(succeed(KEY, third.peer, clock.ms)),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    await pool.admit(NEW.peer, None)
    await refused(pool.admit(third.peer, None))
