"""One payment buys one answer: copies at once, a payment-identifier, and coordinators that are
killed at any moment of settling. Nothing is lost, nothing is sold twice, to the unit."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest

from parhelion.testing.processes import WITH_CHAINS, Running, start_up
from tests.acceptance.stall import (
    NETWORKS,
    Answer,
    Stall,
    Wallet,
    ask,
    named,
    wallet_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

COPIES = 20
ROUNDS = 6
PER_ROUND = 6
SETTLING_S = 0.7
"""A payment is settled within this on the LOCAL chains: kills fall before, within and after."""

RESOLVED_WAIT_S = 30
GIFT_MICRO = 1_000_000
PRICE_MICRO = 1_000


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Stall]:
    data = tmp_path_factory.mktemp("claims") / "data"
    pool = start_up(data, env=WITH_CHAINS)
    try:
        yield Stall.of(pool, data)
    finally:
        assert pool.stop() == 0


def code_of(answer: Answer) -> str:
    return answer[2]["error"]["code"] if answer[0] >= 400 else "served"


def transaction_of(answer: Answer) -> str:
    return json.loads(base64.b64decode(answer[1]["payment-response"]))["transaction"]


def text_of(answer: Answer) -> str:
    return answer[2]["choices"][0]["message"]["content"]


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_the_same_payment_twenty_times_at_once_buys_one_answer(stall: Stall, network: str) -> None:
    before = stall.money()
    wallet = wallet_of(stall, network)
    header = wallet.pay(stall.offer(network))
    with ThreadPoolExecutor(COPIES) as threads:
        answers = list(threads.map(lambda _: stall.buy(header), range(COPIES)))
    codes = Counter(code_of(answer) for answer in answers)
    assert codes["served"] == 1, codes
    assert set(codes) <= {"served", "payment_pending", "payment_used"}, codes
    (served,) = (answer for answer in answers if answer[0] == 200)
    for answer in answers:
        if answer[0] == 503:
            assert int(answer[1]["retry-after"]) >= 1
        if answer[0] == 409:
            assert transaction_of(served) in answer[2]["error"]["message"]
    assert stall.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO
    after = stall.money()
    assert after.payees[network] == before.payees[network] + PRICE_MICRO
    assert after.holds == before.holds + 1
    again = stall.buy(header)
    assert (
        code_of(again) == "payment_used" and transaction_of(served) in again[2]["error"]["message"]
    )


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_a_payment_identifier_tells_the_earlier_answer_and_takes_no_other_body(
    stall: Stall, network: str
) -> None:
    wallet = wallet_of(stall, network)
    body = ask("Tell me of the sun", 12)
    more = {"extensions": named(f"id-{uuid.uuid4()}")}
    header = wallet.pay(stall.offer(network, body), **more)
    first = stall.buy(header, body)
    assert first[0] == 200, first
    before = stall.money()

    # The client never saw the answer: the very same payment is sent again.
    same = stall.buy(header, body)
    assert same[0] == 200, same
    # Or it signed a new one under the same name: that one is not taken.
    new = stall.buy(wallet.pay(stall.offer(network, body), **more), body)
    assert new[0] == 200, new
    for told in (same, new):
        assert text_of(told) == text_of(first)
        assert told[2]["id"] == first[2]["id"]
        assert told[1]["idempotent-replayed"] == "true"
    other = ask("Tell me of the moon", 12)
    for payment in (header, wallet.pay(stall.offer(network, other), **more)):
        refused = stall.buy(payment, other)
        assert (refused[0], code_of(refused)) in {
            (422, "idempotency_mismatch"),
            # Another price is refused as such, and before.
            (402, "payment_required"),
        }, refused
    assert stall.money() == before
    # Another wallet's payment of the same name is another payment.
    stranger = wallet_of(stall, network)
    theirs = stall.buy(stranger.pay(stall.offer(network, body), **more), body)
    assert theirs[0] == 200 and theirs[2]["id"] != first[2]["id"]


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_ten_payments_of_one_identifier_at_once_buy_one_answer(stall: Stall, network: str) -> None:
    wallet = wallet_of(stall, network)
    before = stall.money()
    more = {"extensions": named(f"id-{uuid.uuid4()}")}
    headers = [wallet.pay(stall.offer(network), **more) for _ in range(10)]
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(stall.buy, headers))
    codes = Counter(code_of(answer) for answer in answers)
    assert codes["served"] >= 1, codes
    assert set(codes) <= {"served", "payment_pending", "idempotency_running"}, codes
    assert len({answer[2]["id"] for answer in answers if answer[0] == 200}) == 1
    assert stall.money().holds == before.holds + 1
    assert stall.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO


# --- kills ----------------------------------------------------------------------------------------


@dataclass
class Bought:
    """One payment, and what became of each time that it was sent."""

    wallet: Wallet
    header: str
    words: str
    answers: list[Answer | None] = field(default_factory=list)

    def send(self, stall: Stall) -> Answer | None:
        """Once; None where the coordinator died under it."""
        try:
            answer = stall.buy(self.header, ask(self.words))
        except (OSError, HTTPException):
            answer = None
        self.answers.append(answer)
        return answer

    def send_until_told(self, stall: Stall) -> Answer:
        """As the hint says: the same payment again after Retry-After, until it is decided.

        One that was claimed and never sent is undecided for longer, until it can land no more:
        then nothing must have been taken.
        """
        until_s = time.monotonic() + RESOLVED_WAIT_S
        while True:
            answer = self.send(stall)
            if answer is not None and answer[0] != 503:
                return answer
            if time.monotonic() > until_s:
                assert answer is not None and self.spent(stall) == 0, answer
                return answer
            time.sleep(0.3)

    def spent(self, stall: Stall) -> int:
        """What left the wallet."""
        return GIFT_MICRO - stall.holds(self.wallet.network, self.wallet.address)


def killed_under_payments(
    stall: Stall, chance: random.Random, start_again: Callable[[], Running]
) -> list[Bought]:
    """Payments on their way when the coordinator is killed; each was sent once or twice."""
    bought: list[Bought] = []
    for number in range(PER_ROUND):
        network = NETWORKS[number % 2]
        wallet = wallet_of(stall, network)
        words = f"Say {number} {chance.random()}"
        bought.append(Bought(wallet, wallet.pay(stall.offer(network, ask(words))), words))

    def later(each: Bought, wait_s: float) -> None:
        time.sleep(wait_s)
        each.send(stall)

    threads = [
        threading.Thread(target=later, args=(each, chance.uniform(0, SETTLING_S)))
        for each in bought
        for _ in range(chance.choice((1, 2)))
    ]
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0.02, SETTLING_S))
    stall.pool.kill()
    for thread in threads:
        thread.join()
    stall.pool = start_again()
    return bought


def test_a_payment_whose_coordinator_was_killed_is_served_or_credited_and_never_twice(
    tmp_path: Path, smollm2: Path
) -> None:
    data = tmp_path / "data"
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    chance = random.Random(seed)

    def begin() -> Running:
        return start_up(data, env=WITH_CHAINS)

    stall = Stall.of(begin(), data)
    became: Counter[str] = Counter()
    try:
        everything: list[Bought] = []
        for _ in range(ROUNDS):
            bought = killed_under_payments(stall, chance, begin)
            everything += bought
            # Before the reconciler has looked at all of them, and together.
            with ThreadPoolExecutor(PER_ROUND) as threads:
                list(threads.map(lambda each: each.send(stall), bought))
        with ThreadPoolExecutor(len(everything)) as threads:
            last = list(threads.map(lambda each: each.send_until_told(stall), everything))
        became.update(map(code_of, last))
        wait_until_no_hold_is_open(stall)
        # And each of them once more, when all that landed is booked: nothing more is sold.
        before = stall.money()
        for each in everything:
            answer = each.send(stall)
            assert answer is not None
            assert answer[0] == 409 if each.spent(stall) else answer[0] in (402, 503), answer
        assert stall.money() == before
        for each in everything:
            check_sold_once(stall, each)
        print("after the restart:", dict(became), "answers before:", statuses(everything))
    finally:
        assert stall.pool.stop() == 0


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_the_same_payment_twenty_times_before_and_after_a_kill_buys_one_answer(
    tmp_path: Path, smollm2: Path, network: str
) -> None:
    data = tmp_path / "data"
    stall = Stall.of(start_up(data, env=WITH_CHAINS), data)
    try:
        wallet = wallet_of(stall, network)
        bought = Bought(wallet, wallet.pay(stall.offer(network)), "Say hi")
        for wait_s in (random.uniform(0.05, SETTLING_S), None):
            threads = [threading.Thread(target=bought.send, args=(stall,)) for _ in range(COPIES)]
            for thread in threads:
                thread.start()
            if wait_s is not None:
                time.sleep(wait_s)
                stall.pool.kill()
            for thread in threads:
                thread.join()
            if wait_s is not None:
                stall.pool = start_up(data, env=WITH_CHAINS)
        bought.send_until_told(stall)
        assert {each[0] for each in bought.answers if each is not None} <= {200, 409, 503}
        wait_until_no_hold_is_open(stall)
        check_sold_once(stall, bought)
        assert stall.money().payees[network] == bought.spent(stall)
    finally:
        assert stall.pool.stop() == 0


def wait_until_no_hold_is_open(stall: Stall) -> None:
    until_s = time.monotonic() + RESOLVED_WAIT_S
    while stall.rows("SELECT 1 FROM holds WHERE state = 'held'"):
        assert time.monotonic() < until_s, "a hold stays open"
        time.sleep(0.3)


def statuses(everything: list[Bought]) -> dict[int, int]:
    seen = Counter(
        0 if answer is None else answer[0] for each in everything for answer in each.answers
    )
    return dict(seen)


def check_sold_once(stall: Stall, each: Bought) -> None:
    """A payment left its wallet once, and is an answer that was charged, or a credit."""
    spent = each.spent(stall)
    claims = stall.rows(
        "SELECT state, landed_micro, granted, transaction_id FROM x402_claims "
        "WHERE payer = ? AND state = 'settled'",
        each.wallet.address,
    )
    answers = [answer for answer in each.answers if answer is not None]
    assert {answer[0] for answer in answers} <= {200, 402, 409, 503}, answers
    served = [answer for answer in answers if answer[0] == 200]
    assert len(served) <= 1, served
    if not spent:
        assert not claims and not served
        return
    assert spent == PRICE_MICRO, (spent, claims)
    assert [(row[0], row[1]) for row in claims] == [("settled", PRICE_MICRO)]
    ((account,),) = stall.rows("SELECT account FROM wallets WHERE wallet = ?", each.wallet.caip10)
    holds = stall.rows(
        "SELECT state, amount_micro, cost_micro FROM holds WHERE account = ?", account
    )
    # A hold that a kill cut off is ended, and what it did not bill is credited.
    assert len(holds) <= 1 and all(state != "held" for state, _, _ in holds), holds
    assert not served or holds
    ((left,),) = stall.rows(
        "SELECT credits_posted - debits_posted - debits_pending FROM balances WHERE account = ?",
        account,
    )
    assert left == PRICE_MICRO - sum(cost for _, _, cost in holds)
