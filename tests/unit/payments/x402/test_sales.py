"""The gate for whoever pays with the request: offers, one grant a payment, credits, sessions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from parhelion.allowance import Allowances
from parhelion.config import X402Config
from parhelion.identity import Accounts, Keys, Sessions, topup_keys
from parhelion.ledger import Bill, split, tier_rate
from parhelion.payments import Gate, Replay, Taken, Undelivered
from parhelion.payments.facilitator.outcomes import Code, EvmPayment, Refused
from parhelion.payments.part import balance_of
from parhelion.payments.rules import Payer
from parhelion.payments.till import Till
from parhelion.payments.x402 import TIERS, Desk, Payee
from parhelion.payments.x402.checkout import Checkout
from parhelion.payments.x402.strangers import Strangers
from parhelion.proof import Receipts
from parhelion.words import (
    Ask,
    Credentials,
    Evidence,
    MaxPrice,
    Problem,
    ProblemCode,
    ProviderPreferences,
    Quote,
    kin,
    mint,
)

from .conftest import ASSET, NETWORK, PAYEE, World

PAYER = "0x" + "aa" * 20
POOL_ASSET = "PRLX.local"
URL = "http://pool/v1/chat/completions"
BASIC = TIERS[0]


class Desks:
    """One network, always open."""

    def now(self) -> tuple[Desk, ...]:
        payee = Payee(network=NETWORK, pay_to=PAYEE, facilitator="embedded", rpc_url="http://x")
        return (Desk(payee=payee),)


@dataclass
class Stall:
    """A gate that sells, over the world's store and chain."""

    world: World
    gate: Gate
    till: Till
    keys: Keys
    sessions: Sessions
    receipts: Receipts
    account: str
    secret: str
    usdc_secret: str
    quote: Callable[..., Quote]
    nonces: int = 0

    def ask(self, body: str = "body", **more: Any) -> Ask:
        self.nonces += 1
        request = mint("req", self.world.clock.now_ms(), self.nonces.to_bytes(10, "big"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        return Ask(request=request, dialect="chat", prompt=body, body_hash=digest, **more)

    def price(self, **more: Any) -> Quote:
        return self.quote(assets=(POOL_ASSET, ASSET), **more)

    async def offer(self, ask: Ask, quote: Quote, **credentials: Any) -> dict[str, Any]:
        """What a 402 offers for it, as its header says."""
        return offered(await self.refused(ask, quote, ProblemCode.PAYMENT_REQUIRED, **credentials))

    async def refused(
        self, ask: Ask, quote: Quote, code: ProblemCode, **credentials: Any
    ) -> Problem:
        with pytest.raises(Problem) as raised:
            await self.take(ask, quote, **credentials)
        assert raised.value.code is code, raised.value
        return raised.value

    async def take(self, ask: Ask, quote: Quote, **credentials: Any) -> Any:
        who = Credentials(url=URL, **credentials)
        buyer = await self.gate.identify(ask, who, quote.model.id, quote.rates)
        return await self.gate.take(ask, buyer, quote, expires_at_ms=2**42)

    def sign(self, document: dict[str, Any], **extensions: Any) -> bytes:
        """A payment of the first offer of a 402."""
        self.nonces += 1
        accepted = document["accepts"][0]
        authorization = {
            "from": PAYER,
            "to": accepted["payTo"],
            "value": accepted["amount"],
            "nonce": f"0x{self.nonces:064x}",
        }
        paid = {
            "x402Version": 2,
            "accepted": accepted,
            "payload": {"signature": "0x", "authorization": authorization},
            "extensions": extensions,
        }
        return base64.b64encode(json.dumps(paid).encode())

    async def buy(self, ask: Ask, quote: Quote, **credentials: Any) -> Any:
        payment = self.sign(await self.offer(ask, quote, **credentials))
        return await self.take(ask, quote, payment=payment, **credentials)


def offered(problem: Problem) -> dict[str, Any]:
    assert problem.offer is not None
    told: dict[str, Any] = json.loads(base64.b64decode(problem.offer.header))
    return told


async def verifying(payload: Any, offer: Any, clock: Any) -> EvmPayment:
    told = payload.payload["authorization"]
    return EvmPayment(
        network=offer.network,
        asset=offer.asset.lower(),
        payer=told["from"],
        payee=offer.pay_to,
        amount_micro=offer.amount_micro,
        key=f"{told['from']}:{told['nonce']}",
        nonce=told["nonce"],
        valid_after_s=0,
        valid_before_s=clock.now_ms() // 1000 + 60,
        signature=b"\0" * 65,
    )


@pytest.fixture
async def stall(
    world: World, quote: Callable[..., Quote], monkeypatch: pytest.MonkeyPatch
) -> Stall:
    async def verify(payload: Any, offer: Any) -> EvmPayment:
        world.chain.verified += 1
        return await verifying(payload, offer, world.clock)

    monkeypatch.setattr(world.chain, "verify", verify)
    keys = Keys(world.store, world.clock)
    receipts = Receipts(world.store, world.clock)
    sessions = Sessions(world.store, world.clock)
    account = await Accounts(world.store, world.ledger, world.clock).create("user")
    secret, _ = await keys.create(account, asset=POOL_ASSET, name="credits")
    usdc_secret, _ = await keys.create(account, asset=ASSET, name="dollars")
    await world.ledger.grant(account, POOL_ASSET, 1_000_000, id="g", reason="test")
    checkout = Checkout(
        desks=Desks(),
        networks={NETWORK.id: NETWORK},
        cashier=world.cashier,
        wallets=world.wallets,
        terms=X402Config(),
        asset=ASSET,
        clock=world.clock,
        entropy=os.urandom,
    )
    gate = Gate(
        *(keys, world.ledger, world.store, world.clock, os.urandom),
        asset=POOL_ASSET,
        receipts=receipts,
        sessions=sessions,
        checkout=checkout,
    )
    till = Till(
        checkout=checkout,
        prover=gate.prover,
        ledger=world.ledger,
        store=world.store,
        keys=keys,
        sessions=sessions,
        clock=world.clock,
        entropy=os.urandom,
    )
    return Stall(world, gate, till, keys, sessions, receipts, account, secret, usdc_secret, quote)


async def test_who_brings_nothing_is_offered_what_the_request_can_cost(stall: Stall) -> None:
    quote = stall.price(micro=400_000_000)
    told = await stall.offer(stall.ask(), quote)
    assert [one["amount"] for one in told["accepts"]] == ["12000"]  # 10 + 20 tokens at 400 each
    assert stall.world.chain.verified == stall.world.chain.settled == await stall.world.holds() == 0


async def test_a_small_request_costs_the_smallest_charge_and_the_rest_is_credited(
    stall: Stall,
) -> None:
    taken = await stall.buy(stall.ask(), stall.price())
    assert isinstance(taken, Taken)
    assert taken.hold.amount_micro == 120
    assert taken.grant.bought is not None and taken.grant.bought.amount_micro == 1_000
    assert await stall.world.has(taken.hold.account) == (880, 120)


@pytest.mark.parametrize("bearer", ["none", "EMPTY", None])
async def test_a_placeholder_key_of_an_sdk_is_no_credential_where_payments_are_taken(
    stall: Stall, bearer: str | None
) -> None:
    await stall.offer(stall.ask(), stall.price(), bearer=bearer)


async def test_a_bad_key_of_ours_is_refused_and_the_payment_beside_it_is_not_settled(
    stall: Stall,
) -> None:
    payment = stall.sign(await stall.offer(stall.ask(), stall.price()))
    bad = "sk-prl-" + "A" * 43
    code = ProblemCode.INVALID_API_KEY
    await stall.refused(stall.ask(), stall.price(), code, bearer=bad, payment=payment)
    assert stall.world.chain.verified == stall.world.chain.settled == 0


async def test_what_is_over_goes_to_the_account_of_the_key_beside_the_payment(stall: Stall) -> None:
    payment = stall.sign(await stall.offer(stall.ask(), stall.price()))
    taken = await stall.take(stall.ask(), stall.price(), bearer=stall.secret, payment=payment)
    assert taken.grant.account == stall.account and taken.grant.key is None
    assert await stall.world.has(stall.account) == (880, 120)
    assert await stall.world.wallet() is None, "the wallet opened no account of its own"


async def test_a_free_model_takes_no_payment(stall: Stall) -> None:
    payment = stall.sign(await stall.offer(stall.ask(), stall.price()))
    taken = await stall.take(stall.ask(), stall.price(micro=0), payment=payment)
    assert taken.grant.account == "guest" and stall.world.chain.settled == 0


async def test_one_payment_twenty_times_at_once_buys_one_answer(stall: Stall) -> None:
    quote = stall.price()
    payment = stall.sign(await stall.offer(stall.ask(), quote))
    results = await asyncio.gather(
        *(stall.take(stall.ask(), quote, payment=payment) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Taken) for result in results) == 1
    codes = {result.code for result in results if isinstance(result, Problem)}
    assert codes <= {ProblemCode.PAYMENT_USED, ProblemCode.PAYMENT_PENDING}
    assert stall.world.chain.settled == 1
    used = await stall.refused(stall.ask(), quote, ProblemCode.PAYMENT_USED, payment=payment)
    (landed,) = stall.world.chain.landed.values()
    assert landed.transaction in used.message


async def test_a_refused_payment_is_answered_with_offers_and_a_new_one_buys(stall: Stall) -> None:
    async def declines(payment: EvmPayment) -> Any:
        return Refused(code=Code.INSUFFICIENT_BALANCE, reason="the wallet is empty")

    quote = stall.price()
    stall.world.chain.settles = declines
    payment = stall.sign(await stall.offer(stall.ask(), quote))
    told = offered(
        await stall.refused(stall.ask(), quote, ProblemCode.PAYMENT_REQUIRED, payment=payment)
    )
    assert "the wallet is empty" in told["error"]
    stall.world.chain.settles = None
    assert isinstance(await stall.take(stall.ask(), quote, payment=stall.sign(told)), Taken)


async def test_the_offer_of_a_dearer_request_is_not_paid_by_a_cheaper_ones(stall: Stall) -> None:
    cheap = stall.sign(await stall.offer(stall.ask(), stall.price()))
    dear = stall.price(micro=400_000_000)
    told = offered(
        await stall.refused(stall.ask(), dear, ProblemCode.PAYMENT_REQUIRED, payment=cheap)
    )
    assert told["accepts"][0]["amount"] == "12000" and stall.world.chain.verified == 0


async def test_a_key_with_too_few_dollars_is_offered_the_smallest_topup_that_is_enough(
    stall: Stall,
) -> None:
    quote = stall.price(micro=10_000_000_000)  # 0.3 dollars
    poor = await stall.refused(
        stall.ask(), quote, ProblemCode.INSUFFICIENT_CREDIT, bearer=stall.usdc_secret
    )
    told = offered(poor)
    assert [one["amount"] for one in told["accepts"]] == ["1000000"]
    payment = stall.sign(told)
    taken = await stall.take(stall.ask(), quote, bearer=stall.usdc_secret, payment=payment)
    assert taken.grant.account == stall.account
    assert await stall.world.has(stall.account) == (700_000, 300_000)


async def test_a_topup_need_only_bring_what_is_missing(stall: Stall) -> None:
    await stall.world.ledger.grant(stall.account, ASSET, 100_000, id="gift", reason="test")
    quote = stall.price(micro=10_000_000_000)  # 0.3 dollars
    short = ProblemCode.INSUFFICIENT_CREDIT
    told = offered(await stall.refused(stall.ask(), quote, short, bearer=stall.usdc_secret))
    assert [one["amount"] for one in told["accepts"]] == ["250000"]
    payment = stall.sign(told)
    taken = await stall.take(stall.ask(), quote, bearer=stall.usdc_secret, payment=payment)
    assert taken.hold.amount_micro == 300_000
    assert await stall.world.has(stall.account) == (50_000, 300_000)


async def test_a_topup_that_is_too_small_for_the_request_is_refused_unsettled(stall: Stall) -> None:
    quote = stall.price(micro=10_000_000_000)
    told = await stall.offer(stall.ask(), quote)
    told["accepts"][0]["amount"] = "250000"
    code = ProblemCode.PAYMENT_REQUIRED
    await stall.refused(stall.ask(), quote, code, payment=stall.sign(told))
    assert stall.world.chain.settled == 0


async def test_an_answered_idempotency_key_costs_no_second_payment(stall: Stall) -> None:
    quote = stall.price()
    first = stall.ask(idempotency_key="k")
    taken = await stall.buy(first, quote)
    also = stall.gate.settle_also(taken.grant, first, taken.hold, 0, "finished")
    await stall.world.ledger.void(taken.hold, "test", also)
    evidence = Evidence(
        receipt=kin("rcpt", first.request), opening="", prompt_ids=(), output_ids=(), text="hi"
    )
    stall.receipts.keep_evidence(evidence, taken.hold.account)
    again = stall.ask(idempotency_key="k")
    replay = await stall.buy(again, quote)
    assert isinstance(replay, Replay) and replay.request == first.request
    assert stall.world.chain.settled == 1, "the second payment was claimed, and given up unsent"
    states = await stall.world.store.read("SELECT state FROM x402_claims ORDER BY claimed_at_ms")
    assert sorted(str(state) for (state,) in states) == ["failed", "settled"]


async def test_a_payment_identifier_says_what_became_of_its_request(stall: Stall) -> None:
    quote = stall.price()
    named = {"payment-identifier": {"info": {"required": False, "id": "pay_0123456789abcdef"}}}
    told = await stall.offer(stall.ask(), quote)
    first = stall.ask()
    taken = await stall.take(first, quote, payment=stall.sign(told, **named))
    again = {"payment": stall.sign(told, **named)}
    running = ProblemCode.IDEMPOTENCY_RUNNING
    assert first.request in (await stall.refused(stall.ask(), quote, running, **again)).message
    await stall.world.ledger.void(taken.hold, "no node")
    again = {"payment": stall.sign(told, **named)}
    used = await stall.refused(stall.ask(), quote, ProblemCode.PAYMENT_USED, **again)
    assert "credited" in used.message and stall.world.chain.settled == 1


async def test_a_tier_is_held_at_its_price_and_billed_at_its_share(stall: Stall) -> None:
    ask = stall.ask(tier=BASIC)
    taken = await stall.buy(ask, stall.price(max_tokens=50))
    assert taken.hold.amount_micro == 10_000 and taken.grant.tier == BASIC
    assert taken.grant.rate == tier_rate(BASIC, "org/model", ASSET)


async def test_a_prompt_too_long_for_its_tier_is_refused_before_an_offer(stall: Stall) -> None:
    quote = stall.price(prompt=1_001)
    code = ProblemCode.CONTEXT_LENGTH_EXCEEDED
    assert (await stall.refused(stall.ask(tier=BASIC), quote, code)).offer is None


async def test_who_has_a_key_of_another_asset_is_offered_the_tier(stall: Stall) -> None:
    code = ProblemCode.PAYMENT_REQUIRED
    ask = stall.ask(tier=BASIC)
    problem = await stall.refused(ask, stall.price(), code, bearer=stall.secret)
    assert "this key spends PRLX.local" in problem.message
    assert offered(problem)["accepts"][0]["amount"] == "10000"
    taken = await stall.buy(stall.ask(tier=BASIC), stall.price(), bearer=stall.secret)
    assert (taken.hold.account, taken.hold.key) == (stall.account, None)
    # Where tokens are sold by rate, its own asset pays.
    assert await stall.take(stall.ask(), stall.price(), bearer=stall.secret)


async def bought_session(stall: Stall) -> Any:
    with pytest.raises(Problem) as raised:
        await stall.till.session(BASIC, "org/model", Credentials(url=URL), "req_a")
    payment = stall.sign(offered(raised.value))
    credentials = Credentials(url=URL, payment=payment)
    return await stall.till.session(BASIC, "org/model", credentials, stall.ask().request)


async def test_a_session_has_one_answer_and_no_more(stall: Stall) -> None:
    opened = await bought_session(stall)
    account = opened.session.account
    assert await stall.world.has(account) == (0, 10_000)
    quote = stall.price(max_tokens=100)
    sold = opened.session.sold
    asks = [stall.take(stall.ask(tier=sold), quote, session=opened.token) for _ in range(5)]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert sum(isinstance(result, Taken) for result in results) == 1
    codes = {result.code for result in results if isinstance(result, Problem)}
    assert codes == {ProblemCode.INVALID_SESSION}
    (taken,) = (result for result in results if isinstance(result, Taken))
    spent = await stall.sessions.find(opened.token)
    assert spent.spent_by == kin("req", taken.hold.id)
    assert await stall.world.has(account) == (0, 10_000)


async def test_a_session_answers_for_no_other_tier_and_no_other_route(stall: Stall) -> None:
    opened = await bought_session(stall)
    for ask in (stall.ask(tier=TIERS[1]), stall.ask()):
        await stall.refused(ask, stall.price(), ProblemCode.INVALID_SESSION, session=opened.token)


async def test_a_session_that_runs_out_gives_its_money_back(stall: Stall) -> None:
    opened = await bought_session(stall)
    stall.world.clock.advance(3_601)
    code = ProblemCode.INVALID_SESSION
    await stall.refused(stall.ask(tier=BASIC), stall.price(), code, session=opened.token)
    (hold,) = await stall.world.ledger.run_out()
    await stall.world.ledger.expire(hold)
    assert await stall.world.has(opened.session.account) == (10_000, 0)


async def test_a_session_outlives_a_restart_with_its_hold(stall: Stall) -> None:
    opened = await bought_session(stall)
    assert await stall.world.ledger.open_holds() == (), "recovery must not give it back"
    found = await Sessions(stall.world.store, stall.world.clock).find(opened.token)
    assert found.id == opened.session.id


async def topped_up(stall: Stall, usd: str | None, **credentials: Any) -> Any:
    with pytest.raises(Problem) as raised:
        await stall.till.topup(usd, Credentials(url=URL, **credentials), "req_a")
    payment = stall.sign(offered(raised.value))
    return await stall.till.topup(
        usd, Credentials(url=URL, payment=payment, **credentials), stall.ask().request
    )


async def test_a_topup_brings_a_key_that_spends_what_was_paid_and_no_more(stall: Stall) -> None:
    await topped_up(stall, "5")
    bought = await topped_up(stall, None)
    assert bought.balance.available_micro == 1_000_000, "nothing of what was there before"
    assert bought.expires_at_ms == stall.world.clock.now_ms() + topup_keys.LIFE_MS
    view = stall.keys.authenticate(bought.key)
    assert (view.account, view.limit_micro) == (bought.balance.account, 1_000_000)
    quote = stall.price(micro=40_000_000_000)  # 1.2 dollars, more than was paid for this key
    code = ProblemCode.KEY_LIMIT_REACHED
    await stall.refused(stall.ask(), quote, code, bearer=bought.key)


async def test_a_topup_with_a_key_that_spends_dollars_credits_its_account(stall: Stall) -> None:
    bought = await topped_up(stall, "0.25", bearer=stall.usdc_secret)
    assert bought.key is None and bought.balance.account == stall.account
    assert bought.balance.available_micro == 250_000


async def test_a_topup_with_a_session_credits_its_account_and_makes_no_key(stall: Stall) -> None:
    token, _ = await stall.sessions.open(stall.account, ASSET, None, 60)
    keys = len(await stall.keys.list())
    for available_micro in (250_000, 500_000):
        bought = await topped_up(stall, "0.25", session=token)
        assert (bought.key, bought.expires_at_ms) == (None, None)
        assert bought.balance.account == stall.account
        assert bought.balance.available_micro == available_micro
    assert len(await stall.keys.list()) == keys
    # A key beside it is raised as ever; what cannot spend it gets a key that does.
    beside = await topped_up(stall, "0.25", session=token, bearer=stall.usdc_secret)
    assert beside.key is None and beside.balance.available_micro == 750_000
    answer = (await bought_session(stall)).token
    credits, _ = await stall.sessions.open(stall.account, POOL_ASSET, None, 60)
    for other in (answer, credits):
        bought = await topped_up(stall, "0.25", session=other)
        assert stall.keys.authenticate(bought.key).limit_micro == 250_000


async def test_only_a_session_that_bought_an_answer_has_one(stall: Stall) -> None:
    signed_in, _ = await stall.sessions.open(stall.account, ASSET, None, 60)
    assert await stall.till.has_answer(signed_in, BASIC) is False
    opened = await bought_session(stall)
    assert await stall.till.has_answer(opened.token, BASIC) is True
    await stall.world.store.commit([stall.sessions.spend(opened.session, "req_a")])
    for token, tier in ((opened.token, BASIC), (opened.token, TIERS[1]), ("ses-prl-x", BASIC)):
        with pytest.raises(Problem) as refused:
            await stall.till.has_answer(token, tier)
        assert refused.value.code is ProblemCode.INVALID_SESSION


async def test_a_topups_key_lives_on_with_each_topup_and_ends_without(stall: Stall) -> None:
    first = await topped_up(stall, "0.25")
    stall.world.clock.advance(60 * 24 * 3600)
    again = await topped_up(stall, "0.25", bearer=first.key)
    assert again.key is None and again.balance.available_micro == 500_000
    assert again.expires_at_ms == first.expires_at_ms + 60 * 24 * 3600 * 1000
    stall.world.clock.advance(60 * 24 * 3600)
    stall.keys.authenticate(first.key)
    await stall.keys.load()
    stall.keys.authenticate(first.key)
    stall.world.clock.advance(31 * 24 * 3600)
    with pytest.raises(Problem, match="expired"):
        stall.keys.authenticate(first.key)
    # Its balance outlives it; the next top-up gives its place to another.
    last = await topped_up(stall, "0.25")
    with pytest.raises(Problem, match="not known"):
        stall.keys.authenticate(first.key)
    assert await stall.world.has(last.balance.account) == (750_000, 0)


async def test_an_operators_key_is_not_prolonged_by_whoever_pays(stall: Stall) -> None:
    until_ms = stall.world.clock.now_ms() + 60_000
    secret, _ = await stall.keys.create(
        stall.account, asset=ASSET, name="k", limit_micro=5, expires_at_ms=until_ms
    )
    bought = await topped_up(stall, "0.25", bearer=secret)
    assert (bought.expires_at_ms, bought.balance.available_micro) == (until_ms, 250_000)


async def test_the_emptiest_topup_key_makes_room_for_the_next(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topup_keys, "PER_ACCOUNT_LIMIT", 2)
    rich, spent = await topped_up(stall, "5"), await topped_up(stall, "1")
    id = stall.keys.authenticate(spent.key).id
    store, keys = stall.world.store, stall.keys
    await store.commit([keys.reserve(id, 900_000), keys.settle(id, 900_000, 900_000)])
    for _ in range(2):
        newest = await topped_up(stall, "0.25")
        for kept in (rich, newest):
            keys.authenticate(kept.key)
        assert len([key for key in await keys.list() if key.wallet and not key.revoked]) == 2
    with pytest.raises(Problem, match="not known"):
        keys.authenticate(spent.key)
    await keys.load()
    keys.authenticate(newest.key)


async def test_topup_keys_fill_no_place_of_the_operators(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topup_keys, "IN_ALL_LIMIT", 1)
    monkeypatch.setattr("parhelion.identity.keys.KEYS_PER_ACCOUNT_LIMIT", 1)
    first = await topped_up(stall, "0.25")
    account = first.balance.account
    await stall.keys.create(account, asset=ASSET, name="the operator's one")
    second = await topped_up(stall, "0.25")
    stall.keys.authenticate(second.key)
    with pytest.raises(Problem, match="not known"):
        stall.keys.authenticate(first.key)
    with pytest.raises(Problem, match="too many keys"):
        await stall.keys.create(account, asset=ASSET, name="one too many")


async def test_too_low_a_limit_is_told_without_the_balance_behind_it(stall: Stall) -> None:
    await topped_up(stall, "5")
    key = (await topped_up(stall, "0.25")).key
    for dollars in (1, 9):  # Below and above what the whole account has.
        quote = stall.price(micro=dollars * 33_000_000_000)
        with pytest.raises(Problem) as refused:
            await stall.take(stall.ask(), quote, bearer=key)
        assert "5." not in refused.value.message, refused.value.message


async def test_a_topups_key_sees_its_own_deposits_and_requests_only(stall: Stall) -> None:
    other = await topped_up(stall, "5")
    mine = await topped_up(stall, "0.25")
    key = stall.keys.authenticate(mine.key).id
    more = await topped_up(stall, "0.25", bearer=mine.key)
    payment = stall.sign(await stall.offer(stall.ask(), stall.price()))
    beside = await stall.take(stall.ask(), stall.price(), payment=payment, bearer=mine.key)
    own = await stall.take(stall.ask(), stall.price(), bearer=mine.key)
    theirs = await stall.take(stall.ask(), stall.price(), bearer=other.key)
    account, ledger = mine.balance.account, stall.world.ledger
    entries = await ledger.history(account, limit=20, key=key)
    assert [(each.kind, each.amount_micro > 0) for each in reversed(entries)][:2] == [
        ("deposit", True),
        ("deposit", True),
    ]
    seen = {each.request for each in entries if each.request}
    assert seen == {kin("req", beside.hold.id), kin("req", own.hold.id)}
    deposits = [each.memo for each in entries if each.kind == "deposit"]
    paid = (mine.bought, more.bought, beside.grant.bought)
    assert sorted(deposits) == sorted(f"x402 {each.transaction}" for each in paid)
    sees = await balance_of(Payer(account, key, ASSET), ledger, stall.keys)
    assert sum(each.available_micro for each in entries) == sees.available_micro
    assert sum(each.held_micro for each in entries) == sees.held_micro
    await ledger.explain(kin("req", own.hold.id), account, key=key)
    with pytest.raises(Problem) as refused:
        await ledger.explain(kin("req", theirs.hold.id), account, key=key)
    assert refused.value.code is ProblemCode.NOT_FOUND
    pages = [entry.id for entry in entries]
    assert [
        (await ledger.history(account, limit=1, before=before, key=key))[0].id
        for before in (None, *pages[:-1])
    ] == pages


async def test_a_topup_that_was_replayed_credits_once(stall: Stall) -> None:
    with pytest.raises(Problem) as raised:
        await stall.till.topup("1", Credentials(url=URL), "req_a")
    credentials = Credentials(url=URL, payment=stall.sign(offered(raised.value)))

    def again() -> Awaitable[Any]:
        return stall.till.topup("1", credentials, stall.ask().request)

    results: Sequence[Any] = await asyncio.gather(
        *(again() for _ in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(result, Problem) for result in results) == 1
    await stall.world.mirrors_the_chain()


async def claims(stall: Stall) -> list[tuple[Any, ...]]:
    rows = await stall.world.store.read("SELECT state, look_at_ms FROM x402_claims")
    return [tuple(row) for row in rows]


async def test_what_is_refused_without_a_look_at_the_payment_leaves_no_claim(stall: Stall) -> None:
    told = await stall.offer(stall.ask(), stall.price())
    cheap = ProviderPreferences(max_price=MaxPrice(prompt_micro=1))
    ask = stall.ask(provider=cheap)
    code = ProblemCode.INVALID_REQUEST
    await stall.refused(ask, stall.price(), code, payment=stall.sign(told))
    assert await claims(stall) == [] and stall.world.chain.verified == 0


async def no_slot() -> Any:
    raise Problem(ProblemCode.OVERLOADED, "no slot came free")


@pytest.mark.parametrize("is_embedded", [True, False])
async def test_a_payment_that_only_we_have_seen_is_looked_up_no_more(
    stall: Stall, is_embedded: bool
) -> None:
    window = stall.world.cashier._windows[NETWORK.id]
    stall.world.cashier._windows = {  # type: ignore[assignment]
        NETWORK.id: msgspec.structs.replace(window, is_embedded=is_embedded)
    }
    quote, ask = stall.price(), stall.ask()
    payment = stall.sign(await stall.offer(ask, quote))
    buyer = await stall.gate.identify(
        ask, Credentials(url=URL, payment=payment), quote.model.id, quote.rates
    )
    with pytest.raises(Problem, match="no slot"):
        await stall.gate.take(ask, buyer, quote, expires_at_ms=2**42, reserve=no_slot)
    ((state, look_at_ms),) = await claims(stall)
    assert state == "failed" and (look_at_ms is None) == is_embedded
    assert isinstance(await stall.take(stall.ask(), quote, payment=payment), Taken)


async def test_a_payment_that_can_land_no_more_is_forgotten_and_one_that_landed_never(
    stall: Stall,
) -> None:
    quote = stall.price()
    await stall.buy(stall.ask(), quote)

    async def declines(payment: EvmPayment) -> Any:
        return Refused(code=Code.CHAIN_UNAVAILABLE, reason="away")

    window = stall.world.cashier._windows[NETWORK.id]
    stall.world.cashier._windows = {  # type: ignore[assignment]
        NETWORK.id: msgspec.structs.replace(window, is_embedded=True)
    }
    stall.world.chain.settles = declines
    payment = stall.sign(await stall.offer(stall.ask(), quote))
    unavailable = ProblemCode.PAYMENT_UNAVAILABLE
    await stall.refused(stall.ask(), quote, unavailable, payment=payment)
    stall.world.chain.settles = None
    stall.world.clock.advance(25 * 3600)
    await stall.buy(stall.ask(), quote)
    assert sorted(state for state, _ in await claims(stall)) == ["settled", "settled"]


async def test_a_payment_that_landed_and_opened_nothing_says_so_and_is_no_402(stall: Stall) -> None:
    quote = stall.price(micro=40_000_000_000)  # 1.2 dollars
    await stall.world.ledger.grant(stall.account, ASSET, 1_000_000, id="gift", reason="test")
    short = ProblemCode.INSUFFICIENT_CREDIT
    told = offered(await stall.refused(stall.ask(), quote, short, bearer=stall.usdc_secret))
    payments = [stall.sign(told) for _ in range(2)]
    results = await asyncio.gather(
        *(
            stall.take(stall.ask(), quote, bearer=stall.usdc_secret, payment=payment)
            for payment in payments
        ),
        return_exceptions=True,
    )
    (refused,) = (result for result in results if not isinstance(result, Taken))
    assert isinstance(refused, Undelivered) and refused.code is ProblemCode.PAYMENT_USED
    assert refused.bought.transaction in refused.hint and refused.offer is None
    assert await stall.world.has(stall.account) == (1_500_000 - 1_200_000, 1_200_000)


async def test_a_paid_answer_that_a_crash_cut_goes_on_with_the_same_payment(stall: Stall) -> None:
    quote = stall.price(max_tokens=100)
    named = {"idempotency_key": "k", "tier": BASIC}
    first = stall.ask(**named)
    payment = stall.sign(await stall.offer(first, quote))
    taken = await stall.take(first, quote, payment=payment)
    account = taken.hold.account
    # Recovery bills the 40 tokens that were journalled.
    bill = Bill(
        prompt_tokens=0,
        completion_tokens=40,
        cost_micro=4_000,
        legs=split(4_000, stall.world.ledger.shares, ()),
        reason="restart",
    )
    await stall.world.ledger.post(taken.hold, bill, stall.gate.cut_also(taken.hold, 4_000, 40))
    used = ProblemCode.PAYMENT_USED
    without = await stall.refused(stall.ask(tier=BASIC), quote, used, payment=payment)
    assert "bought" in without.message
    again = await stall.take(stall.ask(**named), quote, payment=payment)
    assert (again.grant.seed, again.grant.unbilled_from) == (taken.grant.seed, 40)
    assert again.hold.amount_micro == 6_000, "what is left of the price"
    assert stall.world.chain.settled == 1
    assert (await stall.world.has(account))[1] == again.hold.amount_micro


@pytest.mark.parametrize("is_burnt", [False, True], ids=["not found good", "failed on the chain"])
async def test_an_address_whose_payments_come_to_nothing_waits_whatever_it_buys(
    stall: Stall, monkeypatch: pytest.MonkeyPatch, is_burnt: bool
) -> None:
    """The gate and the till tell the cashier where a payment comes from."""
    declined = Refused(code=Code.INSUFFICIENT_BALANCE, reason="no", transaction="0x" + "11" * 32)

    async def refuse(*_: Any) -> Refused:
        return declined

    if is_burnt:
        stall.world.chain.settles = refuse
    else:
        monkeypatch.setattr(stall.world.chain, "verify", refuse)
    monkeypatch.setattr(stall.world.cashier, "_strangers", Strangers(stall.world.clock))
    monkeypatch.setattr(stall.world.cashier._strangers, "_failures", Allowances(0.001, 2.0))
    ask, quote, here = stall.ask(), stall.price(), {"address": "192.0.2.1"}
    payment = stall.sign(await stall.offer(ask, quote, **here))
    topup = stall.sign(await _topup_offer(stall))

    async def topped_up(address: str) -> ProblemCode:
        who = Credentials(url=URL, payment=topup, address=address)
        with pytest.raises(Problem) as raised:
            await stall.till.topup("1", who, "req_t")
        return raised.value.code

    for _ in range(1 if is_burnt else 2):
        await stall.refused(ask, quote, ProblemCode.PAYMENT_REQUIRED, payment=payment, **here)
    await stall.refused(ask, quote, ProblemCode.RATE_LIMITED, payment=payment, **here)
    assert await topped_up("192.0.2.1") is ProblemCode.RATE_LIMITED
    assert await topped_up("192.0.2.2") is ProblemCode.PAYMENT_REQUIRED
    if is_burnt:
        assert await topped_up("192.0.2.2") is ProblemCode.RATE_LIMITED


async def _topup_offer(stall: Stall) -> dict[str, Any]:
    with pytest.raises(Problem) as raised:
        await stall.till.topup("1", Credentials(url=URL), "req_t")
    return offered(raised.value)


DEARER = msgspec.structs.replace(BASIC, price_micro=30_000)
SHORTER = msgspec.structs.replace(BASIC, max_tokens=10)
SOLD = msgspec.structs.replace(BASIC, model="org/model")


@pytest.mark.parametrize(
    "now",
    [
        DEARER,
        SHORTER,
        msgspec.structs.replace(BASIC, max_prompt_tokens=20),
        msgspec.structs.replace(BASIC, temperature=0.1),
    ],
)
async def test_an_offer_from_before_a_change_is_refused_unsettled_with_the_new_one(
    stall: Stall, now: Any
) -> None:
    quote = stall.price(max_tokens=10)
    old = stall.sign(await stall.offer(stall.ask(tier=BASIC), quote))
    code = ProblemCode.PAYMENT_REQUIRED
    told = offered(await stall.refused(stall.ask(tier=now), quote, code, payment=old))
    assert told["accepts"][0]["amount"] == str(now.price_micro)
    assert stall.world.chain.settled == stall.world.chain.verified == 0
    with pytest.raises(Problem) as page:
        credentials = Credentials(url=URL, payment=old)
        await stall.till.session(now, "org/model", credentials, stall.ask().request)
    assert page.value.code is code and page.value.offer is not None
    assert stall.world.chain.settled == 0
    taken = await stall.take(stall.ask(tier=now), quote, payment=stall.sign(told))
    assert taken.hold.amount_micro == now.price_micro


async def test_an_offer_of_a_tier_is_for_the_model_that_was_named_in_it(stall: Stall) -> None:
    with pytest.raises(Problem) as raised:
        await stall.till.session(BASIC, "org/model", Credentials(url=URL), "req_a")
    signed = Credentials(url=URL, payment=stall.sign(offered(raised.value)))
    with pytest.raises(Problem) as refused:
        await stall.till.session(BASIC, "org/other", signed, stall.ask().request)
    assert refused.value.code is ProblemCode.PAYMENT_REQUIRED and stall.world.chain.settled == 0


@pytest.mark.parametrize("then", [(DEARER,), (SHORTER,), (TIERS[1],), ()])
async def test_a_session_keeps_what_it_was_sold_with_and_no_more_money_is_taken(
    stall: Stall, then: tuple[Any, ...]
) -> None:
    """Also where its tier is sold no more, and by a coordinator that was started since."""
    opened = await bought_session(stall)
    account = opened.session.account
    await stall.world.ledger.grant(account, ASSET, 1_000_000, id="more", reason="test")
    stall.till.checkout.sell(then)
    found = await Sessions(stall.world.store, stall.world.clock).find(opened.token)
    assert found.sold == SOLD
    said = Credentials(url=URL, session=opened.token)
    assert await stall.till.has_answer(opened.token, SOLD)
    terms = await stall.till.terms("basic", said)
    assert terms == SOLD
    ask = stall.ask(tier=terms)
    taken = await stall.take(ask, stall.price(max_tokens=100), session=opened.token)
    assert (taken.hold.amount_micro, taken.grant.tier) == (10_000, SOLD)
    assert await stall.world.has(account) == (1_000_000, 10_000), "its own money and no other"


async def test_a_session_that_something_else_pays_beside_brings_no_old_price(stall: Stall) -> None:
    opened = await bought_session(stall)
    stall.till.checkout.sell((DEARER,))
    session = opened.token
    paid = Credentials(url=URL, session=session, payment=b"x")
    keyed = Credentials(url=URL, session=session, bearer=stall.usdc_secret)
    signed_in, _ = await stall.sessions.open(stall.account, ASSET, None, 60)
    for said in (paid, keyed, Credentials(url=URL), Credentials(url=URL, session=signed_in)):
        assert await stall.till.terms("basic", said) == DEARER
    for name, said in (("standard", Credentials(url=URL, session=session)), ("gold", paid)):
        with pytest.raises(Problem) as missing:
            await stall.till.terms(name, said)
        assert missing.value.code is ProblemCode.NOT_FOUND


async def test_a_session_is_held_at_no_other_terms_than_it_was_sold_at(stall: Stall) -> None:
    opened = await bought_session(stall)
    with pytest.raises(AssertionError, match="as"):
        await stall.take(stall.ask(tier=DEARER), stall.price(), session=opened.token)
    assert await stall.world.has(opened.session.account) == (0, 10_000)


async def test_a_sale_under_way_ends_at_the_price_that_it_began_with(stall: Stall) -> None:
    """Whatever the tiers become between the claim and the settlement."""
    reached, go = asyncio.Event(), asyncio.Event()
    settle = stall.till.checkout.settle

    async def slow(*given: Any, **more: Any) -> Any:
        reached.set()
        await go.wait()
        return await settle(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stall.till.checkout, "settle", slow)
        buying = asyncio.create_task(bought_session(stall))
        async with asyncio.timeout(5):
            await reached.wait()
        stall.till.checkout.sell((DEARER,))
        go.set()
        opened = await buying
    assert (opened.bought.amount_micro, opened.session.sold) == (10_000, SOLD)
    assert await stall.world.has(opened.session.account) == (0, 10_000)


async def test_a_topup_pays_for_a_tier_of_its_price_and_an_old_tiers_offer_is_no_topup(
    stall: Stall,
) -> None:
    premium = TIERS[2]
    assert premium.price_micro == 250_000, "as much as the smallest top-up"
    quote, code = stall.price(max_tokens=10), ProblemCode.PAYMENT_REQUIRED
    with pytest.raises(Problem) as raised:
        await stall.till.topup("0.25", Credentials(url=URL), "req_a")
    topup = stall.sign(offered(raised.value))
    taken = await stall.take(stall.ask(tier=premium), quote, payment=topup)
    assert taken.hold.amount_micro == 250_000
    old = stall.sign(await stall.offer(stall.ask(tier=premium), quote))
    cheaper = msgspec.structs.replace(premium, price_micro=100_000)
    await stall.refused(stall.ask(tier=cheaper), quote, code, payment=old)
    assert stall.world.chain.settled == 1, "more than it costs, and still not what was offered"
