"""The I/O of the gate: look credentials and keys up, let the rules decide, hand over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from parhelion.identity import Entropy, Keys, Session, Sessions, session_spent
from parhelion.ledger import GUEST, Ledger
from parhelion.payments import idempotency
from parhelion.payments.idempotency import Earlier, Outcome, earlier_of
from parhelion.payments.part import balance_of
from parhelion.payments.proving import Prover, SignIns
from parhelion.payments.rules import (
    Buyer,
    Payer,
    Replay,
    Reserve,
    check_session,
    decide,
    idempotency_key,
    is_free,
    no_credentials,
    over_limit,
    payer_and_rate,
    too_little,
)
from parhelion.proof import Receipts
from parhelion.store import Refused, Statement, Store
from parhelion.words import (
    Ask,
    Clock,
    Credentials,
    Grant,
    Hold,
    Problem,
    ProblemCode,
    Quote,
    Rate,
    kin,
)

if TYPE_CHECKING:
    from parhelion.payments.sales import Sales
    from parhelion.payments.x402.checkout import Checkout

SEED_BYTES = 8
"""64 bits from the OS where the client names no seed."""

TAKE_LIMIT = 4
"""Each loss of a race means that another request moved the same key on: it cannot go on long."""


class Taken(NamedTuple):
    """A grant whose hold is durable: the request may run."""

    grant: Grant
    hold: Hold


class Priced(NamedTuple):
    """Who would pay for a prompt at which rate; `sold` is the rate of a payment, None without."""

    payer: Payer
    rate: Rate
    sold: Rate | None


class Gate:
    """The only door to an engine: every paid, free and repeated request passes it.

    `asset` is the pool's own, in which a model that costs nothing is open to guests. With a
    `checkout` whoever brings no credential is offered what a payment buys.
    """

    def __init__(
        self,
        keys: Keys,
        ledger: Ledger,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        *,
        asset: str,
        receipts: Receipts,
        sessions: Sessions | None = None,
        sign_ins: SignIns | None = None,
        checkout: Checkout | None = None,
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._asset = asset
        self._receipts = receipts
        self._sessions = sessions
        self._checkout = checkout
        wallet_asset = "" if checkout is None else checkout.asset
        self.prover = Prover(keys, sessions, sign_ins, wallet_asset)
        self._sales: Sales | None = None
        if checkout is not None:
            # Loaded where something is sold: a coordinator with keys alone stays small.
            from parhelion.payments.sales import Sales

            self._sales = Sales(self, checkout, ledger)

    async def identify(
        self, ask: Ask, credentials: Credentials, model: str, rates: Sequence[Rate]
    ) -> Buyer:
        """Who would pay for a prompt to this model, at which of its rates.

        What it refuses needs no look at the prompt, so it is asked before one is read. A key that
        ends meanwhile is refused with its hold.
        """
        if ask.tier is not None and self._sales is not None:
            rates = (self._sales.tier_rate(ask.tier, model),)
        free = ask.tier is None and is_free(rates, self._asset)
        needed = not free and self._sales is None
        proven = await self.prover.prove(credentials, is_needed=needed)
        if proven is not None:
            check_session(proven.session, ask.tier)
        rate = None if self._sales is None or free else self._sales.rate(rates)
        if rate is not None:
            # A tier is sold for one asset: who has another one can still pay.
            is_other = proven is not None and ask.tier is not None and proven.asset != rate.asset
            if proven is None or credentials.payment or is_other:
                payer = _credited(proven, rate.asset)
                url, address = credentials.url, credentials.address
                spends = proven.asset if proven is not None and is_other else ""
                return Buyer(payer, rate, True, credentials.payment, url, address, spends)
        payer, rate = payer_and_rate(proven, model, rates, self._asset)
        return Buyer(payer, rate, url=credentials.url)

    async def priced(self, credentials: Credentials, model: str, rates: Sequence[Rate]) -> Priced:
        """Whose balance a prompt would be told a price for, and what a payment is priced at.

        Who could not run the prompt has none read for a price either: where it costs something and
        no payment is taken, a credential is needed as for the prompt.
        """
        free = is_free(rates, self._asset)
        needed = not free and self._sales is None
        proven = await self.prover.prove(credentials, is_needed=needed)
        if proven is None and needed:
            raise no_credentials()
        sold = None if self._sales is None or free else self._sales.rate(rates)
        if proven is None:
            known = (sold, *(rate for rate in rates if rate.asset == self._asset), *rates)
            shown = next((rate for rate in known if rate is not None), None)
            asset = self._asset if free or shown is None else shown.asset
            proven = Payer(GUEST, None, asset)
        payer, rate = payer_and_rate(proven, model, rates, self._asset)
        return Priced(payer, rate, sold)

    def payment_price(self, ask: Ask, quote: Quote, sold: Rate) -> int:
        """What a payment that comes with an ask costs, at the rate that `priced` told."""
        assert self._checkout is not None
        return self._checkout.price(ask, quote, sold).amount_micro

    async def take(
        self,
        ask: Ask,
        buyer: Buyer,
        quote: Quote,
        *,
        expires_at_ms: int,
        reserve: Reserve | None = None,
    ) -> Taken | Replay:
        """Admit and hold in one go; who loses a race for an Idempotency-Key is decided anew.

        `reserve` gets whoever pays with the request a slot before the payment is settled.
        """
        if buyer.buys and self._sales is not None:
            return await self._sales.buy(ask, buyer, quote, expires_at_ms, reserve)
        for _ in range(TAKE_LIMIT):
            grant = await self.admit(ask, buyer, quote)
            if isinstance(grant, Replay):
                return grant
            try:
                hold = await self.hold(
                    grant, ask, quote, expires_at_ms, self._spending(ask, buyer.payer.session)
                )
            except Refused as refused:
                if refused.name != idempotency.CLAIM:
                    problem = self.problem_of(refused, grant, buyer.payer.session)
                    if problem.code is ProblemCode.KEY_LIMIT_REACHED:
                        problem = await self._offering(problem, grant, buyer)
                    raise problem from refused
                continue
            except Problem as problem:
                if problem.code != ProblemCode.INSUFFICIENT_CREDIT:
                    raise
                if ask.idempotency_key:
                    # The credits may be held by this very request's first sending, which raced
                    # us: then "still runs" is the truth, and this says it.
                    await self.admit(ask, buyer, quote)
                raise await self._too_little(grant, buyer, quote) from problem
            return Taken(grant, hold)
        raise Problem(
            ProblemCode.CONFLICT,
            "many requests with this Idempotency-Key came at once",
            hint="send one and wait for it",
        )

    async def admit(self, ask: Ask, buyer: Buyer, quote: Quote) -> Grant | Replay:
        """Who pays for this ask and at most how much, or the replay of its earlier answer.

        Nothing is written. The balance is not looked at: the hold is where it is refused. Problem
        with offers for whoever buys and has not paid.
        """
        if buyer.buys and buyer.payment is None and self._sales is not None:
            raise self._sales.refusal(ask, buyer, quote)
        return await self.decide(ask, buyer.payer, quote, buyer.rate)

    async def decide(self, ask: Ask, payer: Payer, quote: Quote, rate: Rate) -> Grant | Replay:
        """The grant for a payer that is known, or the replay of its earlier answer."""
        earlier = await self.earlier(ask, payer.account)
        evidence_lives = earlier is not None and self.has_evidence(earlier.request, payer.account)
        return decide(
            ask,
            quote,
            payer,
            rate,
            earlier=earlier,
            evidence_lives=evidence_lives,
            fresh_seed=int.from_bytes(self._entropy(SEED_BYTES), "little"),
            billed_micro=await self._billed(ask, earlier, payer.account),
        )

    async def _billed(self, ask: Ask, earlier: Earlier | None, account: str) -> int:
        """What the cut run of a tier's answer cost, which its next run need not hold again."""
        if ask.tier is None or earlier is None or earlier.state != "cut":
            return 0
        return (await self._ledger.explain(earlier.request, account)).cost_micro

    async def hold(
        self,
        grant: Grant,
        ask: Ask,
        quote: Quote,
        expires_at_ms: int,
        first: Sequence[Statement] = (),
    ) -> Hold:
        """Set a grant's amount aside, with all that must be durable with it."""
        return await self._ledger.hold(
            grant,
            ask.request,
            # A run that goes on from a cut one bills the prompt no second time.
            prompt_tokens=len(quote.prompt_ids) if grant.unbilled_from is None else 0,
            expires_at_ms=expires_at_ms,
            first=first,
            also=self.hold_also(grant, ask),
        )

    def has_evidence(self, request: str, account: str) -> bool:
        """Whether a finished request's answer can still be told again to its account."""
        return self._receipts.has_evidence(kin("rcpt", request), account)

    def hold_also(self, grant: Grant, ask: Ask) -> Sequence[Statement]:
        """What must be durable together with the hold: the key's limit and the claim.

        Refused "idempotency.claim": admit again. Refused "key.reserve": see `problem_of`.
        """
        unit: list[Statement] = []
        if grant.key is not None:
            unit.append(self._keys.reserve(grant.key, grant.amount_micro))
        key = idempotency_key(ask, grant.account)
        if key is not None:
            unit += idempotency.claim(
                grant.account,
                key,
                ask.body_hash,
                request=ask.request,
                seed=grant.seed,
                billed_ids=grant.unbilled_from,
                now_ms=self._clock.now_ms(),
            )
        return unit

    def settle_also(
        self,
        grant: Grant,
        ask: Ask,
        hold: Hold,
        spent_micro: int,
        outcome: Outcome,
        billed_ids: int | None = None,
    ) -> Sequence[Statement]:
        """What must be durable together with the post or void of the hold.

        `billed_ids` goes with "cut": up to which output id the answer is billed now.
        """
        unit: list[Statement] = []
        if grant.key is not None:
            unit.append(self._keys.settle(grant.key, hold.amount_micro, spent_micro))
        if idempotency_key(ask, grant.account) is not None:
            unit += idempotency.end(ask.request, outcome, billed_ids)
        return unit

    def cut_also(self, hold: Hold, spent_micro: int, billed_ids: int | None) -> Sequence[Statement]:
        """`settle_also` for a hold found open after a crash, when only its row is known.

        `billed_ids` None: the hold is voided, nothing of this run is billed; the same
        Idempotency-Key runs again with the same seed, as its client may have seen some of it.
        """
        unit: list[Statement] = []
        if hold.key is not None:
            unit.append(self._keys.settle(hold.key, hold.amount_micro, spent_micro))
        unit += idempotency.end(kin("req", hold.id), "cut", billed_ids)
        return unit

    @staticmethod
    def problem_of(refused: Refused, grant: Grant, session: Session | None = None) -> Problem:
        """What the client hears when the key's or the session's part of a hold was refused."""
        if session is not None and refused.name in ("session.spend", "void"):
            return session_spent(session)
        if refused.name != "key.reserve":
            return Problem(
                ProblemCode.INTERNAL,
                f"a hold was refused: {refused.name}",
                hint="this is a fault of ours: please report it",
            )
        if refused.kind == "check":
            return over_limit(grant)
        return Problem(
            ProblemCode.INVALID_API_KEY,
            "this API key was revoked",
            hint="use another key; the pool's owner makes them",
        )

    def _spending(self, ask: Ask, session: Session | None) -> Sequence[Statement]:
        """What frees the answer that a session was sold with, for the hold of this request."""
        if session is None or session.hold is None or self._sessions is None:
            return ()
        # Else it would be held at another price than was paid, or cut at another length.
        assert session.sold in (None, ask.tier), "a session's answer is what it was sold as"
        return (
            self._sessions.spend(session, ask.request),
            self._ledger.voiding(session.hold, f"spent by {ask.request}"),
        )

    async def _too_little(self, grant: Grant, buyer: Buyer, quote: Quote) -> Problem:
        has_micro = await self.spendable(Payer(grant.account, grant.key, grant.rate.asset))
        problem = too_little(grant, quote, has_micro)
        return await self._offering(problem, grant, buyer)

    async def _offering(self, problem: Problem, grant: Grant, buyer: Buyer) -> Problem:
        """The refusal of a balance or limit that is too low, with the top-up that mends it."""
        checkout = self._checkout
        if checkout is None or checkout.asset != grant.rate.asset:
            return problem
        has_micro = await self.spendable(Payer(grant.account, grant.key, grant.rate.asset))
        return checkout.too_little(problem, grant.amount_micro - has_micro, buyer.url)

    async def spendable(self, payer: Payer) -> int:
        """What a payer may spend now: its account's balance, as far as its key's limit lets it."""
        return (await balance_of(payer, self._ledger, self._keys)).available_micro

    def raising(self, key: str, amount_micro: int, deposit: str) -> Sequence[Statement]:
        """What lets a key spend, and see, a payment that was made beside it."""
        return (
            self._keys.raise_limit(key, amount_micro),
            self._ledger.deposited_for(key, deposit),
        )

    async def earlier(self, ask: Ask, account: str) -> Earlier | None:
        """What the ask's Idempotency-Key left at an account."""
        key = idempotency_key(ask, account)
        if key is None:
            return None
        rows = await self._store.read(idempotency.READ, (account, key, self._clock.now_ms()))
        return earlier_of(rows[0]) if rows else None


def _credited(proven: Payer | None, asset: str) -> Payer:
    """Whom a payment is credited to; its key spends it too where it spends that asset."""
    if proven is None:
        return Payer(GUEST, None, asset)
    return Payer(proven.account, proven.key if proven.asset == asset else None, asset)
