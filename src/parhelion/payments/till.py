"""What is sold beside answers at once: credits, and sessions with an answer to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parhelion.identity import Entropy, Keys, Session, Sessions, caip10, session_spent, topup_keys
from parhelion.ledger import Balance, Ledger, tier_rate
from parhelion.payments.part import balance_of
from parhelion.payments.proving import Prover
from parhelion.payments.rules import Payer, Undelivered, check_session
from parhelion.payments.x402.cashier import Earlier
from parhelion.payments.x402.checkout import Checkout, bought, credited_only
from parhelion.payments.x402.claim_book import Opens, Paid, Settlement, T, Unopened
from parhelion.payments.x402.offers import CUSTODY
from parhelion.payments.x402.prices import Price, as_sold, tier_price, topup_price
from parhelion.store import Statement, Store
from parhelion.words import (
    ID_ENTROPY_BYTES,
    Bought,
    Clock,
    Credentials,
    Grant,
    Problem,
    ProblemCode,
    Record,
    Tier,
    kin,
    mint,
)

SESSION_TTL_S = 3600
"""How long a paid answer may be asked for: an hour, as the guide has it."""

SESSION = "ses"
"""What names the hold of a session's answer: no request's, so that no restart gives it back."""


class Topup(Record, frozen=True, kw_only=True):
    """Credits that were bought; `key` spends them, None where the key or session sent does.

    `balance` is what that may spend; `expires_at_ms` is when the key ends, None with a session.
    """

    bought: Bought
    balance: Balance
    key: str | None
    expires_at_ms: int | None


class Spender(NamedTuple):
    """The key that spends a top-up; `secret` None where it was sent with it.

    `id` None: no key, but the session of the whole account that was sent with it.
    """

    id: str | None
    secret: str | None
    expires_at_ms: int | None


class Opened(Record, frozen=True, kw_only=True):
    """A session that was bought: its token, shown once."""

    bought: Bought
    session: Session
    token: str
    ttl_s: int = SESSION_TTL_S


class Till:
    """Sells credits and sessions; each is opened in the unit that books its payment."""

    custody = CUSTODY

    def __init__(
        self,
        *,
        checkout: Checkout,
        prover: Prover,
        ledger: Ledger,
        store: Store,
        keys: Keys,
        sessions: Sessions,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.checkout = checkout
        self._prover = prover
        self._ledger = ledger
        self._store = store
        self._keys = keys
        self._sessions = sessions
        self._clock = clock
        self._entropy = entropy

    async def topup(self, usd: str | None, credentials: Credentials, request: str) -> Topup:
        """Credit the presented key's or session's account, else the wallet's, with a preset amount.

        Problem with offers where no payment came. A new key spends at most what was paid: whoever
        brings a payment need not be the wallet's owner, so it must not open the wallet's balance.
        """
        price = topup_price(usd)
        proven = await self._prover.prove(credentials, is_needed=False)

        async def opens(paid: Settlement, first: Sequence[Statement]) -> Spender:
            if proven is None or (proven.account, proven.asset) != (paid.account, paid.asset):
                return await self._new_key(paid, first)
            if proven.key is not None:
                return await self._raised(proven.key, paid, first)
            if proven.session is None or proven.answer is not None:
                return await self._new_key(paid, first)
            # A session of the whole account spends it: a key for it would be one more secret.
            await self._store.commit([*first])
            return Spender(None, None, None)

        account = None if proven is None else proven.account
        paid = await self._sold(price, credentials, request, account, opens)
        if paid.opened is None:
            raise Undelivered(credited_only(paid.settlement), bought(paid.settlement))
        settlement, key = paid.settlement, paid.opened
        payer = Payer(settlement.account, key.id, settlement.asset)
        return Topup(
            bought=bought(settlement),
            balance=await balance_of(payer, self._ledger, self._keys),
            key=key.secret,
            expires_at_ms=key.expires_at_ms,
        )

    async def _new_key(self, paid: Settlement, first: Sequence[Statement]) -> Spender:
        now_ms = self._clock.now_ms()
        secret, view, insert = self._keys.issue(
            paid.account,
            asset=paid.asset,
            name=f"top-up {paid.transaction[:16]}",
            limit_micro=paid.amount_micro,
            expires_at_ms=now_ms + topup_keys.LIFE_MS,
            wallet=caip10(f"{paid.network}:{paid.payer}"),
        )
        made = (insert, self._ledger.deposited_for(view.id, paid.deposit))
        end = topup_keys.ending(paid.account, now_ms)
        rows = await self._store.commit([*first, end, *made])
        self._keys.forget(str(row[0]) for row in rows[len(first)])
        self._keys.keep(secret, view)
        return Spender(view.id, secret, view.expires_at_ms)

    async def _raised(self, key: str, paid: Settlement, first: Sequence[Statement]) -> Spender:
        until_ms = self._clock.now_ms() + topup_keys.LIFE_MS
        raised = self._keys.raise_limit(key, paid.amount_micro, until_ms)
        await self._store.commit([*first, raised, self._ledger.deposited_for(key, paid.deposit)])
        return Spender(key, None, self._keys.prolong(key, until_ms))

    async def session(
        self, tier: Tier, model: str, credentials: Credentials, request: str
    ) -> Opened:
        """Sell one answer of a tier that may be asked for within an hour."""
        sold = as_sold(tier, model)
        price = tier_price(sold, 0)
        proven = await self._prover.prove(credentials, is_needed=False)

        async def opens(paid: Settlement, first: Sequence[Statement]) -> tuple[str, Session]:
            now_ms = self._clock.now_ms()
            named = mint(SESSION, now_ms, self._entropy(ID_ENTROPY_BYTES))
            grant = Grant(
                account=paid.account,
                key=None,
                rate=tier_rate(sold, model, paid.asset),
                amount_micro=sold.price_micro,
                seed=0,
                tier=sold,
            )
            token, session, rows = self._sessions.issue(
                paid.account,
                paid.asset,
                caip10(f"{paid.network}:{paid.payer}"),
                SESSION_TTL_S,
                sold.name,
                kin("hold", named),
                sold,
            )
            await self._ledger.hold(
                grant,
                named,
                prompt_tokens=0,
                expires_at_ms=session.expires_at_ms,
                first=first,
                also=rows,
            )
            return token, session

        account = None if proven is None else proven.account
        paid = await self._sold(price, credentials, request, account, opens)
        if paid.opened is None:
            raise Undelivered(credited_only(paid.settlement), bought(paid.settlement))
        token, session = paid.opened
        return Opened(bought=bought(paid.settlement), session=session, token=token)

    async def terms(self, name: str, credentials: Credentials) -> Tier:
        """What a request for an answer of this tier is about; Problem NOT_FOUND that lists them.

        Where it spends a session's answer that is the tier as it was sold, also when the pool has
        changed it since or sells it no more; else the tier as it is sold now.
        """
        session = await self._prover.answer_of(credentials)
        if session is not None and session.tier == name and session.sold is not None:
            return session.sold
        return self.checkout.tier(name)

    async def has_answer(self, token: str, tier: Tier) -> bool:
        """Whether a session has an answer of this tier to come; False where it bought none.

        Problem INVALID_SESSION for one that has ended, was spent, or is for another tier.
        """
        session = await self._sessions.find(token)
        check_session(session, tier)
        if session.spent_by is not None:
            raise session_spent(session)
        return session.tier is not None

    async def _sold(
        self,
        price: Price,
        credentials: Credentials,
        request: str,
        account: str | None,
        opens: Opens[T],
    ) -> Paid[T]:
        url = credentials.url
        if credentials.payment is None:
            raise self.checkout.refusal(price, url)
        # No body tells one asker from another: the same payment again is credited, and no more.
        claim = await self.checkout.claim(
            credentials.payment,
            price,
            url,
            request=request,
            body_hash="",
            account=account,
            address=credentials.address,
        )
        if isinstance(claim, Earlier):
            raise Problem(
                ProblemCode.PAYMENT_USED,
                f"this payment has bought {claim.request}: transaction {claim.paid.transaction}",
                hint="sign a new payment",
            )
        try:
            return await self.checkout.settle(
                claim, request, opens, price, url, credentials.address
            )
        except Unopened as unopened:
            why = unopened.__cause__
            what = why.message if isinstance(why, Problem) else "what it was to open was refused"
            problem = Problem(ProblemCode.CONFLICT, f"the payment was credited, but {what}")
            raise Undelivered(problem, bought(unopened.settlement)) from unopened
