"""What comes in from outside: credited once, and mirrored to the unit."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.store import Refused
from parhelion.words import Problem

PLACE = "eip155:84532:0xee"


def deposit(books: Any, account: str, amount_micro: int, id: str = "x402:n:tx") -> Any:
    return books.ledger.deposit(
        account, books.asset, amount_micro, mirror=PLACE, id=id, memo="x402 tx"
    )


async def test_a_deposit_credits_its_account_and_stands_below_zero_at_its_place(
    books: Any,
) -> None:
    await books.user("a")
    await books.store.commit(deposit(books, "a", 500))
    assert await books.has("a") == (500, 0)
    assert await books.has(f"chain:{PLACE}") == (-500, 0)
    (entry,) = await books.ledger.history("a", limit=10)
    assert (entry.kind, entry.amount_micro, entry.memo) == ("deposit", 500, "x402 tx")


async def test_one_id_is_credited_once_whoever_claims_it(books: Any) -> None:
    for account in ("a", "b"):
        await books.user(account)
    await books.store.commit(deposit(books, "a", 500))
    with pytest.raises(Refused) as caught:
        await books.store.commit(deposit(books, "b", 500))
    assert (caught.value.name, caught.value.kind) == ("deposit", "unique")
    assert await books.has("b") == (0, 0)


async def test_a_hold_is_paid_from_the_deposit_of_its_own_unit_or_neither_is(books: Any) -> None:
    await books.user("a")
    await books.hold("a", 400, "req_1", first=deposit(books, "a", 500))
    assert await books.has("a") == (100, 400)
    with pytest.raises(Problem):
        await books.hold("a", 1_000, "req_2", first=deposit(books, "a", 500, "x402:n:tx2"))
    assert await books.has("a") == (100, 400)
    assert await books.has(f"chain:{PLACE}") == (-500, 0)


@pytest.mark.parametrize("amount", [0, -1, 2**53 + 1])
async def test_a_deposit_is_a_positive_amount(books: Any, amount: int) -> None:
    with pytest.raises(Problem):
        deposit(books, "a", amount)


async def test_a_deposit_of_another_class_of_money_is_refused(books: Any) -> None:
    with pytest.raises(Problem):
        books.ledger.deposit("a", "USDC", 1, mirror=PLACE, id="i", memo="")


async def test_no_mirror_is_opened_over_a_users_account(books: Any) -> None:
    """The prefix keeps them apart: account ids start with acct_, mirrors with chain:."""
    await books.user("a")
    await books.store.commit(deposit(books, "a", 1))
    rows = await books.store.read("SELECT id, unbounded FROM accounts WHERE unbounded = 1")
    assert {row[0] for row in rows} == {"issuance", f"chain:{PLACE}"}
