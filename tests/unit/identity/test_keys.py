"""A key is shown once, found by its hash, limited by the database and stopped at once."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from parhelion.identity import Keys, KeyView
from parhelion.identity.keys import KEYS_PER_ACCOUNT_LIMIT
from parhelion.identity.own_keys import ENDED_KEPT
from parhelion.store import Refused, Store
from parhelion.words import Problem, ProblemCode


@pytest.fixture
def keys(store: Store, clock: Any) -> Keys:
    return Keys(store, clock)


async def a_key(keys: Keys, account: str, **more: Any) -> tuple[str, KeyView]:
    return await keys.create(account, asset="PRLX.local", name="laptop", **more)


def code_of(caught: pytest.ExceptionInfo[Problem]) -> str:
    return caught.value.code


async def test_a_new_key_opens_at_once_and_after_a_restart(
    keys: Keys, store: Store, clock: Any, account: str
) -> None:
    secret, view = await a_key(keys, account)
    assert secret.startswith("sk-prl-") and len(secret) == 50
    assert keys.authenticate(secret) == view
    assert (view.account, view.asset, view.spent_micro) == (account, "PRLX.local", 0)
    again = Keys(store, clock)
    with pytest.raises(Problem):
        again.authenticate(secret)
    await again.load()
    assert again.authenticate(secret) == view


async def test_the_secret_is_not_in_the_file(
    keys: Keys, store: Store, account: str, tmp_path: Path
) -> None:
    secret, view = await a_key(keys, account)
    await store.backup(tmp_path / "copy")
    data = (tmp_path / "copy").read_bytes()
    assert secret.encode() not in data
    assert secret[len(view.prefix) :].encode() not in data
    assert view.prefix.encode() in data


@pytest.mark.parametrize(
    "bearer", ["", "sk-prl-", "sk-prl-" + "A" * 43, "x" * 50, "é" * 50, "\ud800" * 50, "A" * 10**6]
)
async def test_an_unknown_bearer_is_refused(keys: Keys, account: str, bearer: str) -> None:
    await a_key(keys, account)
    with pytest.raises(Problem) as caught:
        keys.authenticate(bearer)
    assert code_of(caught) == ProblemCode.INVALID_API_KEY


async def test_a_revoked_key_is_refused_at_once_and_for_ever(
    keys: Keys, store: Store, clock: Any, account: str
) -> None:
    secret, view = await a_key(keys, account)
    revoking = asyncio.create_task(keys.revoke(view.id))
    await asyncio.sleep(0)
    with pytest.raises(Problem):
        keys.authenticate(secret)
    assert (await revoking).revoked
    assert (await keys.revoke(view.id)).revoked
    again = Keys(store, clock)
    await again.load()
    with pytest.raises(Problem) as caught:
        again.authenticate(secret)
    assert code_of(caught) == ProblemCode.INVALID_API_KEY
    with pytest.raises(Refused) as refused:
        await store.commit([keys.reserve(view.id, 0)])
    assert (refused.value.name, refused.value.kind) == ("key.reserve", "rows")


async def test_a_revocation_that_was_not_written_does_not_count(
    keys: Keys, store: Store, account: str
) -> None:
    secret, view = await a_key(keys, account)
    await store.close()
    with pytest.raises(Problem) as caught:
        await keys.revoke(view.id)
    assert code_of(caught) == ProblemCode.STORE_UNAVAILABLE
    assert keys.authenticate(secret) == view


async def test_revoking_an_unknown_key_says_so(keys: Keys) -> None:
    with pytest.raises(Problem) as caught:
        await keys.revoke("key_none")
    assert code_of(caught) == ProblemCode.NOT_FOUND


async def test_a_key_expires_by_the_clock(keys: Keys, clock: Any, account: str) -> None:
    secret, view = await a_key(keys, account, expires_at_ms=clock.ms + 1000)
    clock.ms += 999
    assert keys.authenticate(secret) == view
    clock.ms += 1
    with pytest.raises(Problem) as caught:
        keys.authenticate(secret)
    assert code_of(caught) == ProblemCode.INVALID_API_KEY
    assert "expired" in caught.value.message


async def test_of_racing_reservations_the_limit_lets_exactly_so_many_through(
    keys: Keys, store: Store, account: str
) -> None:
    _, view = await a_key(keys, account, limit_micro=1_000)
    units = (store.commit([keys.reserve(view.id, 100)]) for _ in range(50))
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 40
    assert {(each.name, each.kind) for each in refused} == {("key.reserve", "check")}


async def test_what_is_not_spent_is_free_again(keys: Keys, store: Store, account: str) -> None:
    _, view = await a_key(keys, account, limit_micro=1_000)
    await store.commit([keys.reserve(view.id, 1_000)])
    await store.commit([keys.settle(view.id, 1_000, 300)])
    assert [each.spent_micro for each in await keys.list(account)] == [300]
    with pytest.raises(Refused):
        await store.commit([keys.reserve(view.id, 701)])
    await store.commit([keys.reserve(view.id, 700)])


async def test_a_revoked_key_still_settles_what_it_reserved(
    keys: Keys, store: Store, account: str
) -> None:
    _, view = await a_key(keys, account, limit_micro=1_000)
    await store.commit([keys.reserve(view.id, 1_000)])
    await keys.revoke(view.id)
    await store.commit([keys.settle(view.id, 1_000, 10)])
    assert (await keys.list(account))[0].spent_micro == 10


async def test_a_free_answers_hold_closes_after_its_key_was_forgotten(
    store: Store, keys: Keys, clock: Any, account: str
) -> None:
    """A key that held nothing may be gone when its answer ends; the hold must not stay for ever."""
    _, view = await keys.create_own(account, asset="PRLX.local", name="free")
    await store.commit([keys.reserve(view.id, 0)])
    await keys.revoke(view.id)
    clock.ms += 1
    for n in range(ENDED_KEPT + 2):
        _, next_one = await keys.create_own(account, asset="PRLX.local", name=f"k{n}")
        await keys.revoke(next_one.id)
    assert view.id not in {each.id for each in await keys.list(account)}
    await store.commit([keys.settle(view.id, 0, 0)])
    with pytest.raises(Refused):
        await store.commit([keys.settle(view.id, 1, 0)])


async def test_settling_what_was_not_reserved_is_refused(
    keys: Keys, store: Store, account: str
) -> None:
    _, view = await a_key(keys, account)
    with pytest.raises(Refused):
        await store.commit([keys.settle(view.id, 1, 0)])
    with pytest.raises(ValueError):
        keys.settle(view.id, 1, 2)
    with pytest.raises(ValueError):
        keys.reserve(view.id, -1)


async def test_what_is_paid_beside_a_key_is_the_keys_to_spend(
    keys: Keys, store: Store, account: str
) -> None:
    _, view = await a_key(keys, account, limit_micro=1_000)
    await store.commit([keys.reserve(view.id, 700)])
    assert await keys.left(view.id) == 300
    # In the unit that spends it, and before that: else the old limit would refuse.
    await store.commit([keys.raise_limit(view.id, 500), keys.reserve(view.id, 800)])
    assert await keys.left(view.id) == 0
    with pytest.raises(Refused):
        await store.commit([keys.reserve(view.id, 1)])


async def test_raising_the_limit_of_a_key_that_has_none_gives_it_none(
    keys: Keys, store: Store, account: str
) -> None:
    _, view = await a_key(keys, account)
    await store.commit([keys.raise_limit(view.id, 500)])
    assert await keys.left(view.id) is None
    await store.commit([keys.reserve(view.id, 10**9)])
    with pytest.raises(ValueError, match="never negative"):
        keys.raise_limit(view.id, -1)


async def test_a_key_without_a_limit_has_none(keys: Keys, store: Store, account: str) -> None:
    _, view = await a_key(keys, account)
    await store.commit([keys.reserve(view.id, 2**53)])


async def test_a_list_is_of_one_account_or_of_all(
    keys: Keys, store: Store, books: Any, clock: Any, account: str
) -> None:
    from parhelion.identity import Accounts

    other = await Accounts(store, books, clock).create("user")
    _, mine = await a_key(keys, account)
    clock.ms += 1
    _, theirs = await a_key(keys, other)
    assert await keys.list(account) == (mine,)
    assert await keys.list() == (mine, theirs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "two\nlines"},
        {"asset": "prlx"},
        {"asset": "PRLX.main"},
        {"asset": "PRLX.local; DROP"},
        {"limit_micro": -1},
        {"limit_micro": 2**53 + 1},
        {"expires_at_ms": 0},
        {"expires_at_ms": 2**53},
    ],
)
async def test_a_key_outside_the_limits_is_not_made(
    keys: Keys, account: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(Problem) as caught:
        await keys.create(account, **{"asset": "PRLX.local", "name": "laptop", **wrong})
    assert code_of(caught) == ProblemCode.INVALID_REQUEST
    assert await keys.list() == ()


async def test_a_key_needs_an_account_that_exists(keys: Keys) -> None:
    with pytest.raises(Problem) as caught:
        await a_key(keys, "acct_none")
    assert code_of(caught) == ProblemCode.NOT_FOUND


async def test_an_account_has_a_bounded_number_of_keys(
    keys: Keys, account: str, tmp_path: Path, store: Store
) -> None:
    _, view = await a_key(keys, account)
    # Filled from beside, because a thousand durable commits would take long.
    with sqlite3.connect(tmp_path / "db") as beside:
        beside.executemany(
            "INSERT INTO keys SELECT ?, ?, account, name, asset, prefix, limit_micro, 0, 0,"
            " created_at_ms, NULL, NULL, NULL, 0 FROM keys WHERE id = ?",
            [(f"k{n}", bytes([n % 256, n // 256]), view.id) for n in range(KEYS_PER_ACCOUNT_LIMIT)],
        )
    beside.close()
    with pytest.raises(Problem) as caught:
        await a_key(keys, account)
    assert code_of(caught) == ProblemCode.CONFLICT


async def test_an_account_is_known_to_the_ledger(books: Any, account: str) -> None:
    assert account.startswith("acct_")
    await books.grant(account, "PRLX.local", 5, id="g1", reason="test")
    assert (await books.balance(account, "PRLX.local")).available_micro == 5
