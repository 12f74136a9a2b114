"""500 payments on two chains while everything is killed: the books are the chains, to the unit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from eth_utils.crypto import keccak

from parhelion.bootstrap.ground import open_ground
from parhelion.chain.solana import associated_account
from parhelion.config import load
from parhelion.payments.facilitator.offers import TOKEN_PROGRAM
from parhelion.testing.buyer import EVM, SOLANA, Chains
from tests.acceptance.storm import GIFT_MICRO, KINDS, Answer, Buyer, MortalPool, Purchase

BUYERS = 20
PAYMENTS = 500
KILLS = {"coordinator": 5, "minisol": 7, "minievm": 7, "node": 5}
STORMY = 350
"""The payments after these come in quiet weather: what broke must have healed for them."""

STILL_S = 90.0
EXPIRED_S = {SOLANA: 92.0, EVM: 122.0}
"""What never reached its chain is given up for lost so long after: a blockhash is kept for 90 s, an
authorization is good for 60, and 60 more pass before it is believed dead."""

TOLD_S = 60.0
ASSET = "USDC.local"
NEVER = {"poor", "short"}
"""Who pays like this gets nothing."""

UNDONE = ("claimed", "pending")
TRANSFER, USED = (
    "0x" + keccak(text=each).hex()
    for each in ("Transfer(address,address,uint256)", "AuthorizationUsed(address,bytes32)")
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


class Landing(NamedTuple):
    """A payment as its chain has it."""

    transaction: str
    payer: str
    amount_micro: int


class ClaimRow(NamedTuple):
    """A payment as the books have it."""

    network: str
    payment: str
    state: str
    payer: str
    account: str | None
    amount_micro: int
    transaction: str | None
    landed_micro: int | None
    granted: str | None
    identifier: str | None


class Books:
    """The database of a pool that is stopped."""

    def __init__(self, data: Path) -> None:
        self._data = data
        columns = "network, payment, state, payer, account, amount_micro, transaction_id"
        more = "landed_micro, granted, identifier"
        found = self.rows(f"SELECT {columns}, {more} FROM x402_claims")
        self.claims = [ClaimRow(*row) for row in found]
        self.settled = {
            (each.network, each.transaction): each
            for each in self.claims
            if each.state == "settled"
        }

    def rows(self, question: str, *values: Any) -> list[Any]:
        return rows_of(self._data, question, *values)

    def mirror(self, network: str, pay_to: str) -> int:
        account = f"chain:{network}:{pay_to if network == SOLANA else pay_to.lower()}"
        ((lies,),) = self.rows(
            "SELECT coalesce(sum(debits_posted - credits_posted), 0) FROM balances"
            " WHERE account = ? AND asset = ?",
            account,
            ASSET,
        )
        return int(lies)

    def faults(self) -> list[str]:
        """What the ledger's own audit and the chain of commits find."""

        async def look() -> list[str]:
            async with contextlib.AsyncExitStack() as stack:
                config = load(None, {}, {"": {"data": str(self._data)}})
                ground = await open_ground(stack, config, self._data)
                return [*await ground.ledger.audit(), *await ground.books.verify_chain()]

        return asyncio.run(look())


def rows_of(data: Path, question: str, *values: Any) -> list[Any]:
    uri = f"file:{data / 'parhelion.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=20)) as books:
        return books.execute(question, values).fetchall()


@pytest.fixture
def pool(tmp_path: Path, smollm2: Path) -> Iterator[MortalPool]:
    made = MortalPool(tmp_path)
    yield made
    made.abandon()


class Weather:
    """Kills a process whenever so many payments were sent, at random."""

    def __init__(self, pool: MortalPool, dice: random.Random) -> None:
        plan = [what for what, times in KILLS.items() for _ in range(times)]
        dice.shuffle(plan)
        self._plan = sorted(
            (dice.uniform(10, STORMY), number, what) for number, what in enumerate(plan)
        )
        self._pool = pool
        self._dice = dice
        self._sent = 0
        self._changed = threading.Condition()

    def sent(self) -> None:
        """One more payment was sent."""
        with self._changed:
            self._sent += 1
            self._changed.notify()

    def rage(self) -> None:
        """Kill all that is planned."""
        for after, _, what in self._plan:
            with self._changed:
                while self._sent < after:
                    assert self._changed.wait(STILL_S), f"no payment was sent for {STILL_S} s"
            # Not at the moment at which a payment was just told: anywhere in the next ones.
            time.sleep(self._dice.uniform(0, 0.4))
            self._pool.kill(what, self._dice)


def test_after_a_storm_with_kills_the_books_are_the_chains_to_the_unit(pool: MortalPool) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    began_s = time.monotonic()
    dice = random.Random(seed)
    weather = Weather(pool, dice)
    buyers = [
        Buyer(pool, network, f"{seed}/{number}", weather.sent)
        for number, network in enumerate((SOLANA, EVM) * (BUYERS // 2))
    ]
    funded_s = time.monotonic()
    with ThreadPoolExecutor(BUYERS + 1) as crowd:
        raging = crowd.submit(weather.rage)
        for done in [crowd.submit(buyer.buy, PAYMENTS // BUYERS) for buyer in buyers]:
            done.result()
        raging.result()
    stormed_s = time.monotonic()
    settled_at_last(pool)
    chains = Chains(pool.running)
    landings = {network: landed(chains, network) for network in (SOLANA, EVM)}
    payees = {network: chains.networks[network]["pay_to"] for network in (SOLANA, EVM)}
    taken = chains.taken()
    held = {buyer.wallet.caip10: buyer.wallet.holds() for buyer in buyers}
    pool.stop()

    books = Books(pool.data)
    purchases = [purchase for buyer in buyers for purchase in buyer.purchases]
    for network, found in landings.items():
        check_the_books_are_the_chain(books, network, payees[network], found, taken[network])
    check_wallets(books, buyers, held, landings)
    check_grants(books, buyers)
    check_answers(books, purchases, landings)
    assert books.faults() == []
    refused = [each for each in purchases if each.proof not in landings[each.network]]
    told = (
        f"{len(purchases)} payments, {sum(map(len, landings.values()))} landed, {len(refused)} "
        f"not, {sum(each.was_ambiguous for each in purchases)} ambiguous at some time, kills "
        f"{dict(pool.kills)}; {funded_s - began_s:.0f} s to fund, {stormed_s - funded_s:.0f} s of "
        f"storm, {time.monotonic() - stormed_s:.0f} s until all was told and checked"
    )
    print(told)
    assert len(purchases) >= PAYMENTS and all(len(found) > 100 for found in landings.values())
    check_that_much_was_sold(buyers)


def check_that_much_was_sold(buyers: Sequence[Buyer]) -> None:
    """A storm in which nothing happens proves nothing; and no answer is a fault of ours."""
    sat = [each for buyer in buyers for one in buyer.sittings for each in one.answers]
    keyed = [each for buyer in buyers for each in buyer.keyed]
    purchases = [purchase for buyer in buyers for purchase in buyer.purchases]
    paid = [each for purchase in purchases for each in purchase.answers]
    for answers, wanted in (
        (paid, {200, 402, 409, 422, 502, 503}),
        (sat, {200, 401, 502, 503}),
        (keyed, {200, 402, 502, 503}),
    ):
        told = Counter((each.status, each.problem) for each in answers)
        print(told)
        assert {each.status for each in answers} <= wanted, told
        assert any(each.status == 200 for each in answers)
    assert {purchase.kind for purchase in purchases if purchase.served} >= KINDS.keys() - NEVER


def settled_at_last(pool: MortalPool) -> None:
    """Until the chain has told of every payment; what never reached it has to expire first."""
    until_s = time.monotonic() + max(EXPIRED_S.values()) + TOLD_S
    question = (
        "SELECT network, payment, claimed_at_ms, reason FROM x402_claims WHERE state IN (?, ?)"
    )
    is_looked_at = False
    while found := rows_of(pool.data, question, *UNDONE):
        assert time.monotonic() < until_s, found
        expired_at_s = max(EXPIRED_S[row[0]] + row[2] / 1000 for row in found)
        if time.time() > expired_at_s and not is_looked_at:
            # Looks are a minute apart by now. A start looks at once: one more kill saves that.
            pool.kill("coordinator", random.Random())
            is_looked_at = True
        time.sleep(0.25)


def landed(chains: Chains, network: str) -> dict[str, Landing]:
    """All that the seller got on a chain, by what its payer signed."""
    found = (_on_solana if network == SOLANA else _on_evm)(chains)
    assert len({each.transaction for each in found.values()}) == len(found)
    return found


def _on_solana(chains: Chains) -> dict[str, Landing]:
    network = chains.networks[SOLANA]
    account = associated_account(network["pay_to"], network["token"], TOKEN_PROGRAM)
    how = {"limit": 1000, "commitment": "confirmed"}
    rows = chains.rpc(SOLANA, "getSignaturesForAddress", account, how)
    assert len(rows) < 1000
    found: dict[str, Landing] = {}
    for row in rows:
        how = {"encoding": "json", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
        told = chains.rpc(SOLANA, "getTransaction", row["signature"], how)
        gains: Counter[str] = Counter()
        for side, sign in (("preTokenBalances", -1), ("postTokenBalances", 1)):
            for each in told["meta"][side]:
                gains[each["owner"]] += sign * int(each["uiTokenAmount"]["amount"])
        if gains[network["pay_to"]] == 0:
            continue
        (payer,) = [owner for owner, gain in gains.items() if gain < 0]
        proof = told["transaction"]["signatures"][1]
        found[proof] = Landing(row["signature"], payer, gains[network["pay_to"]])
    return found


def _on_evm(chains: Chains) -> dict[str, Landing]:
    network = chains.networks[EVM]
    where = {"fromBlock": "0x0", "toBlock": "latest", "address": network["token"]}
    payee = "0x" + network["pay_to"][2:].lower().rjust(64, "0")
    moved = chains.rpc(EVM, "eth_getLogs", {**where, "topics": [TRANSFER, None, payee]})
    used = chains.rpc(EVM, "eth_getLogs", {**where, "topics": [USED]})
    proofs = {
        log["transactionHash"]: f"0x{log['topics'][1][-40:]}:{log['topics'][2]}" for log in used
    }
    return {
        proofs[log["transactionHash"]]: Landing(
            log["transactionHash"], "0x" + log["topics"][1][-40:], int(log["data"], 16)
        )
        for log in moved
    }


def check_the_books_are_the_chain(
    books: Books, network: str, pay_to: str, found: dict[str, Landing], taken_micro: int
) -> None:
    landed_micro = sum(each.amount_micro for each in found.values())
    settled = [each for each in books.settled.values() if each.network == network]
    assert taken_micro == landed_micro, network
    assert books.mirror(network, pay_to) == landed_micro, network
    assert sum(each.landed_micro or 0 for each in settled) == landed_micro, network
    # One by one, too: two faults must not make up for each other.
    assert {(each.transaction, each.payer, each.landed_micro) for each in settled} == {
        tuple(each) for each in found.values()
    }
    assert {each.state for each in books.claims} <= {"settled", "failed"}


def check_wallets(
    books: Books,
    buyers: Sequence[Buyer],
    held: dict[str, int],
    landings: dict[str, dict[str, Landing]],
) -> None:
    """What left a wallet is credited: to its own account, or to that of the key beside it."""
    credited: Counter[str] = Counter(
        dict(
            books.rows(
                "SELECT credit, sum(amount_micro) FROM transfers WHERE id LIKE 'x402:%'"
                " AND asset = ? GROUP BY credit",
                ASSET,
            )
        )
    )
    accounts = dict(books.rows("SELECT wallet, account FROM wallets"))
    due: Counter[str] = Counter()
    for buyer in buyers:
        spent_micro = 0
        for purchase in buyer.purchases:
            landing = landings[purchase.network].get(purchase.proof)
            if landing is None:
                continue
            assert (landing.payer, landing.amount_micro) == (purchase.payer, purchase.amount_micro)
            spent_micro += landing.amount_micro
            wallets_own = accounts.get(f"{purchase.network}:{purchase.payer}")
            due[str(purchase.account or wallets_own)] += landing.amount_micro
        assert GIFT_MICRO - held[buyer.wallet.caip10] == spent_micro
    assert +credited == +due
    below = (
        "SELECT account FROM balances WHERE NOT unbounded"
        " AND credits_posted - debits_posted - debits_pending < 0"
    )
    assert books.rows(below) == []


def check_grants(books: Books, buyers: Sequence[Buyer]) -> None:
    """A payment buys once, nothing is had without one, and nothing stays set aside."""
    granted = [each.granted for each in books.claims if each.granted is not None]
    assert len(granted) == len(set(granted))
    assert all(each.state == "settled" for each in books.claims if each.granted is not None)
    sessions = books.rows("SELECT hold, spent_by FROM sessions")
    spent = [by for _, by in sessions if by is not None]
    assert len(spent) == len(set(spent))
    holds = books.rows("SELECT id, request, key, state FROM holds")
    assert {id for id, _, _, state in holds if state == "held"} == {
        hold for hold, by in sessions if by is None
    }
    of_sessions = {hold for hold, _ in sessions}
    paid_for = {*granted, *spent}
    free = [
        request
        for id, request, key, _ in holds
        if key is None and id not in of_sessions and request not in paid_for
    ]
    assert free == [], "had for nothing"
    for sitting in (sitting for buyer in buyers for sitting in buyer.sittings):
        served = [each for each in sitting.answers if each.status == 200]
        assert len(served) <= 1, sitting
        assert all(each.request in spent for each in served)
    asked = {request: id for id, request, _, _ in holds}
    # A session is opened, and credits are topped up, without a hold of the request's own.
    without = [request for request in granted if request not in asked]
    sold = {
        answer.request
        for buyer in buyers
        for one in buyer.purchases
        for answer in one.served
        if one.path.startswith(("/content/", "/v1/credits/"))
    }
    assert sold <= set(without)
    keys = {request for _, request, key, _ in holds if key is not None}
    spent_credits = [each for buyer in buyers for each in buyer.keyed if each.status == 200]
    assert {each.request for each in spent_credits} <= keys


def check_answers(
    books: Books, purchases: Sequence[Purchase], landings: dict[str, dict[str, Landing]]
) -> None:
    """Who was served paid, once; who was refused lost nothing."""
    posted = dict(books.rows("SELECT request, cost_micro FROM holds WHERE state = 'posted'"))
    for purchase in purchases:
        landing = landings[purchase.network].get(purchase.proof)
        claim = None if landing is None else books.settled[purchase.network, landing.transaction]
        assert len(purchase.served) <= 1, purchase
        for answer in purchase.served:
            assert claim is not None and claim.granted == answer.request, purchase
            check_bill(purchase, answer, posted)
        if claim is None:
            # Nothing landed: nothing was had for it, but what an earlier one of its name bought.
            assert all(each.status != 200 or each.is_replay for each in purchase.answers)
        if purchase.kind in NEVER:
            assert claim is None and purchase.answers[-1].status == 402, purchase
        refused = [each for each in purchase.answers if each.status in (402, 409, 422)]
        only_refused = len(refused) == len(purchase.answers) and not purchase.broken
        if only_refused and claim is not None:
            assert claim.granted is None, purchase


def check_bill(purchase: Purchase, answer: Answer, posted: dict[str, int]) -> None:
    """What an answer says of the money is what the books have."""
    if "topup" in purchase.path:
        assert int(answer.body["credited"]) == purchase.amount_micro
        return
    usage = answer.body.get("usage")
    if usage is None:
        # A session, or a stream that broke: its hold is closed, as all are.
        return
    assert int(usage["cost"]) + int(usage["credited"]) == purchase.amount_micro
    assert posted[answer.request] == int(usage["cost"])
