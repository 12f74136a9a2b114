"""A session's token opens what it was made for, until it expires, is spent or is ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from parhelion import identity, ledger
from parhelion.identity import Session, Sessions, is_ours, is_session, session_spent
from parhelion.identity.sessions import SIGNED_IN_LIMIT, TOKEN_CHARS
from parhelion.store import Refused, Statement, Store
from parhelion.words import AssetClass, Problem, ProblemCode

ASSET = "USDC.local"
WALLET = "eip155:84532:0x" + "ab" * 20


@pytest.fixture
def sessions(store: Store, clock: Any) -> Sessions:
    return Sessions(store, clock)


async def count(store: Store) -> int:
    ((found,),) = await store.read("SELECT count(*) FROM sessions")
    return int(found)  # type: ignore[arg-type]


async def test_a_token_finds_its_session_and_rests_as_a_hash(
    sessions: Sessions, store: Store, account: str
) -> None:
    token, made = await sessions.open(account, ASSET, WALLET, 60)
    assert is_session(token) and len(token) == TOKEN_CHARS and not is_ours(token)
    assert await sessions.find(token) == made
    assert (made.account, made.asset, made.wallet, made.spent_by) == (account, ASSET, WALLET, None)
    rows = await store.read("SELECT * FROM sessions")
    assert token.encode() not in repr(rows).encode()


@pytest.mark.parametrize(
    "bad", ["", "ses-prl-", "ses-prl-" + "A" * 43, "sk-prl-" + "A" * 44, "é" * 51, "\udcff" * 51]
)
async def test_a_forged_token_is_refused(sessions: Sessions, bad: str) -> None:
    with pytest.raises(Problem) as raised:
        await sessions.find(bad)
    assert raised.value.code == ProblemCode.INVALID_SESSION
    assert raised.value.hint


async def test_a_session_ends_to_the_millisecond(
    sessions: Sessions, account: str, clock: Any
) -> None:
    token, _ = await sessions.open(account, ASSET, WALLET, 60)
    clock.ms += 59_999
    await sessions.find(token)
    clock.ms += 1
    with pytest.raises(Problem, match="expired"):
        await sessions.find(token)


async def test_signing_out_ends_a_session_at_once_and_may_be_repeated(
    sessions: Sessions, account: str
) -> None:
    token, _ = await sessions.open(account, ASSET, WALLET, 60)
    other, _ = await sessions.open(account, ASSET, WALLET, 60)
    for _ in range(2):
        await sessions.end(token)
    with pytest.raises(Problem, match="ended"):
        await sessions.find(token)
    await sessions.find(other)


async def test_the_answer_of_a_session_is_spent_once_however_many_race(
    sessions: Sessions, store: Store, account: str
) -> None:
    token, session = await sessions.open(account, ASSET, WALLET, 60, "basic", "hold_1")
    units = [store.commit([sessions.spend(session, f"req_{n}")]) for n in range(10)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    refusals = [o for o in outcomes if isinstance(o, Refused)]
    assert [(r.name, r.kind) for r in refusals] == [("session.spend", "check")] * 9
    found = await sessions.find(token)
    assert found.spent_by is not None
    assert found.spent_by in session_spent(found).message
    await store.commit([sessions.spend(found, found.spent_by)])


async def test_an_ended_or_expired_session_or_a_sign_in_has_no_answer_to_spend(
    sessions: Sessions, store: Store, account: str, clock: Any
) -> None:
    async def refused(session: Session) -> None:
        with pytest.raises(Refused) as raised:
            await store.commit([sessions.spend(session, "req_1")])
        assert (raised.value.name, raised.value.kind) == ("session.spend", "rows")

    _, signed_in = await sessions.open(account, ASSET, WALLET, 60)
    await refused(signed_in)
    token, ended = await sessions.open(account, ASSET, WALLET, 60, "basic", "hold_1")
    await sessions.end(token)
    await refused(ended)
    _, expired = await sessions.open(account, ASSET, WALLET, 60, "basic", "hold_2")
    clock.ms += 60_000
    await refused(expired)


async def test_a_session_opens_with_its_payment_or_not_at_all(
    sessions: Sessions, store: Store, account: str
) -> None:
    token, _, unit = sessions.issue(account, ASSET, WALLET, 60, "basic", "hold_1")
    with pytest.raises(Refused):
        await store.commit([*unit, Statement("payment", "DELETE FROM owners WHERE 0", (), rows=1)])
    with pytest.raises(Problem):
        await sessions.find(token)
    await store.commit(unit)
    await sessions.find(token)


async def test_one_hold_pays_for_one_session(sessions: Sessions, account: str) -> None:
    await sessions.open(account, ASSET, WALLET, 60, "basic", "hold_1")
    with pytest.raises(Refused):
        await sessions.open(account, ASSET, WALLET, 60, "basic", "hold_1")
    with pytest.raises(ValueError, match="together"):
        await sessions.open(account, ASSET, WALLET, 60, "basic")
    with pytest.raises(ValueError, match="lives"):
        await sessions.open(account, ASSET, WALLET, 0)


async def test_the_oldest_sign_in_ends_at_the_limit_and_paid_answers_stay(
    sessions: Sessions, account: str, clock: Any
) -> None:
    paid, _ = await sessions.open(account, ASSET, WALLET, 600, "basic", "hold_1")
    tokens: list[str] = []
    for _ in range(SIGNED_IN_LIMIT + 1):
        clock.ms += 1
        tokens.append((await sessions.open(account, ASSET, WALLET, 600))[0])
    with pytest.raises(Problem):
        await sessions.find(tokens[0])
    for token in (paid, tokens[1], tokens[-1]):
        await sessions.find(token)


async def test_expired_sessions_are_forgotten_faster_than_new_ones_come(
    sessions: Sessions, store: Store, account: str, clock: Any
) -> None:
    for n in range(20):
        await sessions.open(account, ASSET, WALLET, 60, "basic", f"hold_{n}")
    clock.ms += 60_000
    for n in range(5):
        await sessions.open(account, ASSET, WALLET, 60, "basic", f"later_{n}")
    assert await count(store) == 5


async def test_sessions_and_what_they_spent_survive_a_restart(tmp_path: Path, clock: Any) -> None:
    migrations = (*ledger.MIGRATIONS, *identity.MIGRATIONS)

    async def opened() -> Store:
        return await Store.open(tmp_path / "s.db", migrations, AssetClass.LOCAL, clock)

    store = await opened()
    shares = ledger.Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    books = ledger.Ledger(store, clock, shares)
    account = await identity.Accounts(store, books, clock).create("user")
    token, made = await Sessions(store, clock).open(account, ASSET, WALLET, 60, "basic", "hold_1")
    await store.commit([Sessions(store, clock).spend(made, "req_1")])
    await store.close()
    store = await opened()
    assert (await Sessions(store, clock).find(token)).spent_by == "req_1"
    await store.close()
