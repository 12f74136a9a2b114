"""A facilitator by URL that is x402's own, or hangs, lies and breaks: nobody is served for nothing,
nobody is told to pay twice, and what landed is credited."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.acceptance.stall import (
    EvmWallet,
    SolanaWallet,
)
from tests.acceptance.troubled import (
    CREDITED_WITHIN_S,
    FAILED_WITHIN_S,
    GIFT_MICRO,
    PRICE_MICRO,
    TOLD_WITHIN_S,
    Call,
    Mood,
    RemoteFacilitator,
    Reply,
    Trouble,
    is_unavailable,
    pays_honestly,
    troubled,
    until,
)
from tests.unit.payments.facilitator.sketches import BASE_SEPOLIA, SOLANA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Trouble]:
    with ExitStack() as stack:
        yield troubled(stack, tmp_path_factory.mktemp("remote"), is_remote=True)


def answering(**changed: Any) -> Mood:
    """Does what it should, and says something else of it."""

    def mood(_: RemoteFacilitator, call: Call) -> Reply:
        return 200, json.dumps({**call.honest(), **changed}).encode()

    return mood


def lying(**said: Any) -> Mood:
    """Does nothing, and says that it did."""

    def mood(_: RemoteFacilitator, call: Call) -> Reply:
        told = {"success": True, "network": call.network, "isValid": True, **said}
        return 200, json.dumps(told).encode()

    return mood


def failing(status: int, body: bytes = b"{}", *, settles: bool = False) -> Mood:
    """An HTTP answer that is none, after its work or without."""

    def mood(_: RemoteFacilitator, call: Call) -> Reply:
        if settles:
            call.honest()
        return status, body

    return mood


def silent(*, settles: bool) -> Mood:
    def mood(facilitator: RemoteFacilitator, call: Call) -> None:
        if settles:
            call.honest()
        facilitator.hang()

    return mood


def broken(*, settles: bool) -> Mood:
    """The connection ends without an answer."""

    def mood(_: RemoteFacilitator, call: Call) -> None:
        if settles:
            call.honest()

    return mood


HUGE = b'{"success": true, "x": "' + b"a" * 3_000_000 + b'"}'
STRANGER = str(Keypair().pubkey())

VERIFY: dict[str, Mood] = {
    "hangs": silent(settles=False),
    "500": failing(500),
    "502 with a page": failing(502, b"<html>bad gateway</html>"),
    "redirect": failing(302),
    "garbage": failing(200, b"\x00\xff not json"),
    "huge": failing(200, HUGE),
    "a list": failing(200, b"[]"),
    "hangs up": broken(settles=False),
    "valid for another payer": lying(payer=STRANGER),
    "valid and 402": failing(402, b'{"isValid": true}'),
    "429": failing(429),
}
SETTLE: dict[str, tuple[Mood, bool]] = {
    "hangs": (silent(settles=False), False),
    "settles and hangs": (silent(settles=True), True),
    "500": (failing(500), False),
    "settles and 500": (failing(500, settles=True), True),
    "garbage": (failing(200, b"\x00\xff not json"), False),
    "settles and garbage": (failing(200, b"}{", settles=True), True),
    "huge": (failing(200, HUGE), False),
    "settles and huge": (failing(200, HUGE, settles=True), True),
    "hangs up": (broken(settles=False), False),
    "settles and hangs up": (broken(settles=True), True),
    "success and nothing settled": (lying(transaction="5" * 88), False),
    "success of no transaction": (lying(transaction=""), False),
    "settles and says failure": (answering(success=False, errorReason="no"), True),
    "settles for another payer": (answering(payer=STRANGER), True),
    "settles on another network": (answering(network="solana:other"), True),
    "failure": (lying(success=False, errorReason="no"), False),
    "redirect": (failing(307), False),
}


@pytest.mark.parametrize("network", [SOLANA, BASE_SEPOLIA], ids=["solana", "evm"])
def test_a_stock_facilitator_by_url_serves_on_both_chains(remote: Trouble, network: str) -> None:
    pays_honestly(remote, network)


@pytest.mark.parametrize("mood", VERIFY)
def test_a_facilitator_that_cannot_verify_is_503_and_takes_nothing(
    remote: Trouble, mood: str
) -> None:
    assert remote.facilitator is not None
    wallet = SolanaWallet(remote.stall)
    header = wallet.pay(remote.stall.offer(SOLANA))
    before = remote.stall.answers()
    remote.facilitator.moods["/verify"] = VERIFY[mood]
    try:
        begun_s = time.monotonic()
        answer = remote.stall.buy(header)
        assert time.monotonic() - begun_s < TOLD_WITHIN_S
    finally:
        remote.heal()
    is_unavailable(answer)
    assert remote.stall.answers() == before
    assert not remote.states(wallet.address)
    assert remote.stall.holds(SOLANA, wallet.address) == GIFT_MICRO
    # As the hint says: the same payment again.
    assert remote.stall.buy(header)[0] == 200


@pytest.mark.parametrize("mood", SETTLE)
def test_a_facilitator_that_settles_as_it_likes_gives_nothing_away(
    remote: Trouble, mood: str
) -> None:
    assert remote.facilitator is not None
    wallet = SolanaWallet(remote.stall)
    header = wallet.pay(remote.stall.offer(SOLANA))
    before = remote.stall.answers()
    does, lands = SETTLE[mood]
    remote.facilitator.moods["/settle"] = does
    try:
        begun_s = time.monotonic()
        answer = remote.stall.buy(header)
        assert time.monotonic() - begun_s < TOLD_WITHIN_S
    finally:
        remote.heal()
    is_unavailable(answer)
    assert remote.stall.answers() == before
    if not lands:
        assert remote.credited(wallet) == 0
        assert remote.states(wallet.address) == [("pending", 0)]
        return
    until(
        lambda: remote.states(wallet.address) == [("settled", PRICE_MICRO)],
        CREDITED_WITHIN_S,
        "what landed is not credited",
    )
    assert remote.stall.holds(SOLANA, wallet.address) == GIFT_MICRO - PRICE_MICRO
    assert remote.credited(wallet) == PRICE_MICRO
    # Its sender, who was told to, sends it again and is served for it.
    served = remote.stall.buy(header)
    assert served[0] == 200, served
    assert remote.stall.buy(header)[0] == 409


def test_a_facilitator_that_names_another_payments_transaction_pays_nothing(
    remote: Trouble,
) -> None:
    assert remote.facilitator is not None
    thief, honest = SolanaWallet(remote.stall), SolanaWallet(remote.stall)
    served = remote.stall.buy(honest.pay(remote.stall.offer(SOLANA)))
    assert served[0] == 200
    ((transaction,),) = remote.stall.rows(
        "SELECT transaction_id FROM x402_claims WHERE payer = ?", honest.address
    )
    before = remote.stall.answers()
    remote.facilitator.moods["/settle"] = lying(transaction=transaction)
    try:
        answer = remote.stall.buy(thief.pay(remote.stall.offer(SOLANA)))
    finally:
        remote.heal()
    is_unavailable(answer)
    assert remote.stall.answers() == before
    assert remote.credited(thief) == 0
    assert remote.states(thief.address) == [("pending", 0)]


@pytest.mark.parametrize(
    ("mood", "lands"),
    [
        (answering(success=False, errorReason="no"), True),
        (lying(transaction="0x" + "12" * 32), False),
    ],
    ids=["settles and says failure", "success and nothing settled"],
)
def test_an_evm_facilitator_that_lies_gives_nothing_away(
    remote: Trouble, mood: Mood, lands: bool
) -> None:
    assert remote.facilitator is not None
    wallet = EvmWallet(remote.stall)
    remote.facilitator.moods["/settle"] = mood
    try:
        answer = remote.stall.buy(wallet.pay(remote.stall.offer(BASE_SEPOLIA)))
    finally:
        remote.heal()
    is_unavailable(answer)
    if lands:
        until(
            lambda: remote.states(wallet.address) == [("settled", PRICE_MICRO)],
            CREDITED_WITHIN_S,
            "what landed is not credited",
        )
    assert remote.credited(wallet) == (PRICE_MICRO if lands else 0)


def test_a_facilitator_that_refuses_is_402_with_its_reason_and_takes_nothing(
    remote: Trouble,
) -> None:
    assert remote.facilitator is not None
    wallet = SolanaWallet(remote.stall)
    header = wallet.pay(remote.stall.offer(SOLANA))
    remote.facilitator.moods["/verify"] = failing(
        200, b'{"isValid": false, "invalidReason": "sanctioned"}'
    )
    try:
        status, headers, told = remote.stall.buy(header)
    finally:
        remote.heal()
    assert status == 402 and "(facilitator_refused): sanctioned" in told["error"]["message"]
    assert "payment-required" in headers
    assert not remote.states(wallet.address)
    assert remote.stall.holds(SOLANA, wallet.address) == GIFT_MICRO


def test_what_never_landed_is_called_dead_and_books_and_chain_agree(remote: Trouble) -> None:
    """Of all the payments above: those that landed are credited, the others failed, to the unit."""

    def is_over() -> bool:
        rows = remote.stall.rows("SELECT DISTINCT state FROM x402_claims WHERE network = ?", SOLANA)
        return {row[0] for row in rows} <= {"settled", "failed"}

    until(is_over, FAILED_WITHIN_S, "claims are open for ever")
    for payee in remote.stall.totals()["payees"]:
        # One base unit was there before the pool.
        gift = 1 if payee["network"] == SOLANA else 0
        assert int(payee["onchain"]) - gift == int(payee["mirror"])
    pays_honestly(remote, SOLANA)
