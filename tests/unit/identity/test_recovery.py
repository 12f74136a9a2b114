"""Recovery codes: told from typos, good until a newer one, and hopeless to guess."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.identity import CODE_LIMIT_CHARS, Members, Newcomers, Sessions
from parhelion.identity.recovery import (
    GUESSES_AT_ONCE,
    LETTERS,
    UNKNOWN_AT_ONCE,
    letters_of,
    written,
)
from parhelion.ledger import Ledger
from parhelion.store import Store
from parhelion.words import Problem, ProblemCode
from tests.unit.identity.conftest import StillClock

ASSET = "PRLX.local"


@pytest.fixture
def members(store: Store, books: Ledger, clock: StillClock) -> Members:
    return members_of(store, books, clock)


def members_of(
    store: Store, books: Ledger, clock: StillClock, per_hour: int = 10, per_address: int = 5
) -> Members:
    newcomers = Newcomers(books, clock, per_hour, per_address)
    return Members(store, clock, Sessions(store, clock), newcomers, b"p" * 32, ASSET)


@given(st.binary(min_size=32, max_size=32))
def test_a_code_is_eight_groups_that_are_easy_to_type(chance: bytes) -> None:
    code = written(chance)
    groups = code.split("-")
    assert [len(group) for group in groups] == [4] * 8
    assert set("".join(groups)) <= set(LETTERS)
    for typed in (code.lower(), code.replace("-", " "), f" {code.replace('-', '')}\n"):
        assert letters_of(typed) == code.replace("-", "")
    assert len(code) <= CODE_LIMIT_CHARS


def test_there_are_more_codes_than_can_be_guessed() -> None:
    assert len(LETTERS) ** 29 > 2**128


def test_a_typo_is_told_from_a_wrong_code() -> None:
    """Each single letter changed, and each two neighbours swapped: three check letters tell."""
    missed = tried = 0
    for seed in range(20):
        code = written(bytes([seed]) * 32).replace("-", "")
        typos = {code[:at] + letter + code[at + 1 :] for at in range(32) for letter in "AKZ"}
        typos |= {code[:at] + code[at + 1] + code[at] + code[at + 2 :] for at in range(31)}
        for typo in typos - {code}:
            tried += 1
            try:
                letters_of(typo)
                missed += 1
            except Problem as problem:
                assert problem.code is ProblemCode.SIGN_IN_INVALID and "typo" in problem.message
    assert tried > 1500 and missed <= 3


@pytest.mark.parametrize("text", ["", "ABCD", "ABCI" * 8, "ABC1" * 8, "É" * 32, "A" * 33])
def test_what_is_no_code_is_told_why(text: str) -> None:
    with pytest.raises(Problem) as caught:
        letters_of(text)
    assert caught.value.code is ProblemCode.SIGN_IN_INVALID and caught.value.hint


async def test_a_code_leads_back_to_its_account_until_a_newer_one(members: Members) -> None:
    code, (_, first) = await members.open_with_code("1.2.3.4")
    assert (first.wallet, first.asset) == (None, ASSET)
    again = await members.enter_with_code(code.lower(), "1.2.3.4")
    assert again.session.account == first.account and again.session.id != first.id
    newer = await members.offer_code(first)
    await members.confirm_code(first, newer.lower())
    with pytest.raises(Problem, match="no account has"):
        await members.enter_with_code(code, "1.2.3.4")
    assert (await members.enter_with_code(newer, "")).session.account == first.account
    assert (await members.ways(first.account)) == (0, True)


async def test_a_new_code_that_never_arrived_leaves_the_old_one_good(members: Members) -> None:
    """Its answer was cut: the owner has only the sheet of paper from before."""
    code, (_, first) = await members.open_with_code("1.2.3.4")
    await members.offer_code(first)
    lost = await members.offer_code(first)
    assert (await members.enter_with_code(code, "")).session.account == first.account
    arrived = await members.offer_code(first)
    with pytest.raises(Problem, match="no account has"):
        await members.enter_with_code(lost, "")
    with pytest.raises(Problem) as caught:
        await members.confirm_code(first, lost)
    assert caught.value.code is ProblemCode.CONFLICT and caught.value.hint
    assert (await members.enter_with_code(code, "")).session.account == first.account
    await members.confirm_code(first, arrived)
    with pytest.raises(Problem, match="no account has"):
        await members.enter_with_code(code, "")


async def test_the_first_use_of_a_new_code_voids_the_old_one(
    store: Store, members: Members, clock: StillClock
) -> None:
    code, (mine, first) = await members.open_with_code("1.2.3.4")
    newer = await members.offer_code(first)
    entered = await members.enter_with_code(newer, "")
    with pytest.raises(Problem, match="no account has"):
        await members.enter_with_code(code, "")
    with pytest.raises(Problem, match="has ended"):
        await Sessions(store, clock).find(mine)
    assert await Sessions(store, clock).find(entered.token)
    assert (await members.enter_with_code(newer, "")).session.account == first.account
    assert await store.read("SELECT 1 FROM recovery_codes_offered") == []


async def test_a_confirmation_whose_answer_was_lost_is_said_again(members: Members) -> None:
    _, (_, first) = await members.open_with_code("1.2.3.4")
    newer = await members.offer_code(first)
    await members.confirm_code(first, newer)
    await members.enter_with_code(newer, "")
    assert await members.confirm_code(first, newer) == 1
    with pytest.raises(Problem, match="typo"):
        await members.confirm_code(first, ("A" if newer[0] != "A" else "B") + newer[1:])


async def test_one_code_at_most_waits_and_nobody_confirms_anothers(
    store: Store, members: Members
) -> None:
    code, (_, first) = await members.open_with_code("1.2.3.4")
    _, (_, other) = await members.open_with_code("1.2.3.4")
    for _ in range(4):
        await members.offer_code(first)
    newer = await members.offer_code(first)
    assert await store.read("SELECT count(*) FROM recovery_codes_offered") == [(1,)]
    for theirs in (newer, code):
        with pytest.raises(Problem) as caught:
            await members.confirm_code(other, theirs)
        assert caught.value.code is ProblemCode.CONFLICT
    assert (await members.enter_with_code(code, "")).session.account == first.account


async def test_a_code_is_hashed_at_rest(members: Members, tmp_path: Path) -> None:
    code, _ = await members.open_with_code("")
    with sqlite3.connect(tmp_path / "db") as beside:
        ((hash,),) = beside.execute("SELECT hash FROM recovery_codes")
        told = "\n".join(beside.iterdump()).upper()
    assert len(hash) == 32
    assert code not in told and code.replace("-", "") not in told


async def test_wrong_codes_of_one_address_are_limited_and_of_others_not(
    members: Members, clock: StillClock
) -> None:
    code, _ = await members.open_with_code("1.2.3.4")
    for _ in range(int(GUESSES_AT_ONCE)):
        with pytest.raises(Problem, match="no account has"):
            await members.enter_with_code(written(os.urandom(32)), "6.6.6.6")
    with pytest.raises(Problem) as caught:
        await members.enter_with_code(code, "6.6.6.6")
    assert caught.value.code is ProblemCode.RATE_LIMITED
    assert await members.enter_with_code(code, "1.2.3.4")
    clock.ms += 61_000
    assert await members.enter_with_code(code, "6.6.6.6")


async def test_wrong_codes_through_a_proxy_are_limited_together(
    members: Members, clock: StillClock
) -> None:
    code, _ = await members.open_with_code("1.2.3.4")
    for _ in range(int(UNKNOWN_AT_ONCE)):
        with pytest.raises(Problem, match="no account has"):
            await members.enter_with_code(written(os.urandom(32)), "")
    with pytest.raises(Problem, match="through a proxy") as caught:
        await members.enter_with_code(code, "")
    assert caught.value.code is ProblemCode.RATE_LIMITED
    assert await members.enter_with_code(code, "1.2.3.4"), "who is known is let in all the same"
    clock.ms += 1_000
    assert await members.enter_with_code(code, "")


async def test_strangers_behind_a_proxy_leave_room_for_those_who_are_known(
    store: Store, books: Ledger, clock: StillClock
) -> None:
    members = members_of(store, books, clock, per_hour=8, per_address=3)
    for _ in range(4):
        await members.open_with_code("")
    with pytest.raises(Problem, match="through a proxy") as caught:
        await members.open_with_code("")
    assert caught.value.code is ProblemCode.RATE_LIMITED
    for address in ("1.2.3.4", "1.2.3.4", "5.6.7.8", "5.6.7.8"):
        await members.open_with_code(address)
    with pytest.raises(Problem, match="opened here"):
        await members.open_with_code("9.9.9.9")


async def test_a_new_code_ends_the_other_sign_ins_and_no_paid_answer(
    store: Store, members: Members, clock: StillClock
) -> None:
    """Whoever stole a session must not stay when its owner makes a new code."""
    code, (mine, first) = await members.open_with_code("1.2.3.4")
    stolen = (await members.enter_with_code(code, "1.2.3.4")).token
    _, (others, _) = await members.open_with_code("1.2.3.4")
    sessions = Sessions(store, clock)
    wallet = "eip155:84532:0x" + "1" * 40
    paid, _ = await sessions.open(first.account, ASSET, wallet, 60, "basic", "hold_recovery")
    newer = await members.offer_code(first)
    assert await sessions.find(stolen), "the owner may not have the new code yet"
    assert await members.confirm_code(first, newer) == 1
    with pytest.raises(Problem, match="has ended"):
        await sessions.find(stolen)
    for token in (mine, others, paid):
        assert await sessions.find(token)
    await members.enter_with_code(newer, "1.2.3.4")
    assert await members.end_others(first) == 1
    assert await members.end_others(first) == 0
    assert await sessions.find(mine)


async def test_good_codes_and_typos_use_no_guess_up(members: Members) -> None:
    code, _ = await members.open_with_code("1.2.3.4")
    for _ in range(3 * int(GUESSES_AT_ONCE)):
        assert await members.enter_with_code(code, "1.2.3.4")
        with pytest.raises(Problem, match="letters"):
            await members.enter_with_code(code[:-1], "1.2.3.4")


async def test_strangers_open_a_bounded_number_of_accounts(
    store: Store, books: Ledger, clock: StillClock
) -> None:
    members = members_of(store, books, clock, per_hour=6, per_address=4)
    for _ in range(4):
        await members.open_with_code("1.2.3.4")
    with pytest.raises(Problem, match="from your address"):
        await members.open_with_code("1.2.3.4")
    # One household has one /64: another address in it is the same.
    await members.open_with_code("2001:db8::1")
    await members.open_with_code("")
    with pytest.raises(Problem, match="accounts were opened here") as caught:
        await members.open_with_code("2001:db8::2")
    assert caught.value.code is ProblemCode.RATE_LIMITED and caught.value.retry_after_s
    ((count,),) = await store.read("SELECT count(*) FROM owners")
    assert count == 6
    clock.ms += 3600_000
    await members.open_with_code("1.2.3.4")


async def test_codes_and_sessions_outlive_a_restart(
    store: Store, books: Ledger, clock: StillClock
) -> None:
    code, (token, first) = await members_of(store, books, clock).open_with_code("")
    again = members_of(store, books, clock)
    assert (await again.enter_with_code(code, "")).session.account == first.account
    assert (await Sessions(store, clock).find(token)).account == first.account
