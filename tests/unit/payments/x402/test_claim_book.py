"""The rows themselves refuse what must never be, whoever writes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.payments.x402 import ClaimEvent, Landed
from parhelion.payments.x402.claim_rows import CLAIM, GRANT, SETTLE
from parhelion.store import Refused, Statement

PAYER = "0x" + "aa" * 20


async def take(world: Any, signed: Any, **more: Any) -> Any:
    given = {"request": world.request(), "asset": "USDC.local", "account": None}
    given |= {"identifier": None, "body_hash": "b", **more}
    return await world.book.take(signed, **given)


def landed(signed: Any, transaction: str = "0x" + "77" * 32) -> Landed:
    return Landed(
        transaction=transaction, amount_micro=signed.amount_micro, payer=signed.payer, slot=1
    )


async def refused(doing: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        await doing
    return caught.value.name, caught.value.kind


async def test_a_claim_is_taken_once_until_it_failed_definitely(world: Any) -> None:
    signed = world.signed()
    claim = await take(world, signed)
    assert await refused(take(world, signed)) == (CLAIM, "rows")
    await world.book.end(claim, ClaimEvent.AMBIGUOUS, reason="502")
    assert await refused(take(world, signed)) == (CLAIM, "rows"), "pending is not free"
    pending = await world.book.find(signed.network, signed.key)
    await world.book.end(pending, ClaimEvent.EXPIRED, reason="never landed")
    again = await take(world, signed)
    assert again.attempt == 2
    world.chain.carry(signed)
    await world.book.book(again, landed(signed), None)
    assert await refused(take(world, signed)) == (CLAIM, "rows"), "settled is final"
    world.chain.landed.clear()


async def test_a_late_word_about_an_earlier_attempt_changes_nothing(world: Any) -> None:
    signed = world.signed()
    first = await take(world, signed)
    await world.book.end(first, ClaimEvent.REFUSED, reason="too little")
    await take(world, signed)
    await world.book.end(first, ClaimEvent.REFUSED, reason="too little")
    assert (await world.book.find(signed.network, signed.key)).state == "claimed"
    assert await refused(world.book.book(first, landed(signed), None)) == (SETTLE, "rows")


async def test_a_claim_is_booked_once_under_the_id_of_its_settlement(world: Any) -> None:
    signed = world.signed()
    claim = await take(world, signed)
    paid = await world.book.book(claim, landed(signed), None)
    assert await refused(world.book.book(claim, landed(signed), None)) == (SETTLE, "rows")
    ((id, kind, amount),) = await world.store.read("SELECT id, kind, amount_micro FROM transfers")
    assert id == f"x402:{signed.network}:{paid.settlement.transaction}"
    assert (kind, amount) == ("deposit", 5_000)


async def test_one_transaction_settles_one_claim(world: Any) -> None:
    one, two = world.signed(), world.signed()
    claims = [await take(world, one), await take(world, two)]
    await world.book.book(claims[0], landed(one), None)
    assert await refused(world.book.book(claims[1], landed(two), None)) == (SETTLE, "unique")
    assert await world.has(await world.wallet()) == (5_000, 0)


async def test_a_transaction_that_another_claim_has_is_not_noted_down_for_a_second(
    world: Any,
) -> None:
    one, two = world.signed(), world.signed()
    claims = [await take(world, one), await take(world, two)]
    await world.book.book(claims[0], landed(one), None)
    told = landed(two).transaction
    await world.book.end(claims[1], ClaimEvent.AMBIGUOUS, reason="said", transaction=told)
    row = await world.book.find(two.network, two.key)
    assert (row.state, row.transaction) == ("pending", None)
    assert "another's" in row.reason


async def test_a_settled_claim_buys_once(world: Any) -> None:
    signed = world.signed()
    await world.book.book(await take(world, signed), landed(signed), None)
    claim = await world.book.find(signed.network, signed.key)
    first, second = world.request(), world.request()
    await world.book.grant(claim, first, world.hold(first))
    assert await refused(world.book.grant(claim, second, world.hold(second))) == (GRANT, "rows")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE x402_claims SET state = 'failed', landed_micro = NULL",
        "UPDATE x402_claims SET landed_micro = 1",
        "UPDATE x402_claims SET transaction_id = 'x'",
        "UPDATE x402_claims SET account = 'treasury'",
        "UPDATE x402_claims SET amount_micro = 1",
        "UPDATE x402_claims SET payment = 'x'",
        "DELETE FROM x402_claims",
    ],
)
async def test_no_statement_changes_what_was_settled(world: Any, change: str) -> None:
    signed = world.signed()
    await world.book.book(await take(world, signed), landed(signed), None)
    assert await refused(world.store.commit([Statement("s", change)])) == ("s", "check")


async def test_no_statement_grants_what_has_not_landed(world: Any) -> None:
    await take(world, world.signed())
    granting = Statement("s", "UPDATE x402_claims SET granted = 'req_1'")
    assert await refused(world.store.commit([granting])) == ("s", "check")


async def test_a_transaction_known_beforehand_is_written_with_the_claim(world: Any) -> None:
    """Solana: our own signature as fee payer is its id, so a crash leaves nothing to search."""
    from parhelion.payments.facilitator.outcomes import SolanaPayment

    signed = SolanaPayment(
        network="solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
        asset="mint",
        payer="p",
        payee="q",
        amount_micro=5_000,
        key="ab",
        blockhash="h",
        source="s",
        token_program="t",
        wire=b"\x01",
        transaction="5sig",
    )
    await take(world, signed)
    claim = await world.book.find(signed.network, signed.key)
    assert claim.transaction == "5sig"
    assert claim.signed == signed, "what finds it on its chain comes back whole"
    other = msgspec.structs.replace(signed, key="cd")
    assert await refused(take(world, other)) == (CLAIM, "unique")


async def test_after_a_month_the_signed_bytes_of_a_settled_payment_go_and_nothing_else(
    world: Any,
) -> None:
    signed = msgspec.structs.replace(world.signed(), request=b"{}" * 2_000)
    claim = await take(world, signed)
    await world.book.book(claim, landed(signed), None)
    before = await world.book.find(signed.network, signed.key)
    for days in (29, 2):
        world.clock.advance(days * 86_400)
        kept = await world.book.find(signed.network, signed.key)
        assert kept == before, "until then it is whole"
        await take(world, world.signed())
    after = await world.book.find(signed.network, signed.key)
    slim = msgspec.structs.replace(signed, request=b"", signature=b"")
    assert after == msgspec.structs.replace(before, signed=slim)
    assert await refused(take(world, signed)) == (CLAIM, "rows"), "it is settled all the same"
    again = Statement(
        "whole", "UPDATE x402_claims SET is_whole = 1 WHERE payment = ?", (signed.key,)
    )
    assert (await refused(world.store.commit([again])))[0] == "whole"


async def test_of_many_old_ones_a_few_go_with_each_claim(world: Any) -> None:
    for number in range(10):
        signed = world.signed()
        claim = await take(world, signed)
        await world.book.book(claim, landed(signed, f"0x{number:064x}"), None)
    world.clock.advance(31 * 86_400)
    for left in (6, 2, 0):
        await take(world, world.signed())
        whole = "SELECT count(*) FROM x402_claims WHERE state = 'settled' AND is_whole = 1"
        assert list(await world.store.read(whole)) == [(left,)]
