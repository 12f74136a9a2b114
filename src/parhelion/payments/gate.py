"""The I/O of the gate: look credentials and keys up, let the rules decide, hand over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parhelion.identity import Entropy, Keys, is_ours
from parhelion.ledger import Ledger
from parhelion.payments import idempotency
from parhelion.payments.idempotency import Earlier, Outcome, earlier_of
from parhelion.payments.rules import (
    Payer,
    Replay,
    decide,
    idempotency_key,
    is_free,
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

SEED_BYTES = 8
"""64 bits from the OS where the client names no seed."""

TAKE_LIMIT = 4
"""Each loss of a race means that another request moved the same key on: it cannot go on long."""


class Taken(NamedTuple):
    """A grant whose hold is durable: the request may run."""

    grant: Grant
    hold: Hold


class Gate:
    """The only door to an engine: every paid, free and repeated request passes it.

    `asset` is the pool's own, in which a model that costs nothing is open to guests.
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
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._asset = asset
        self._receipts = receipts

    async def take(
        self, ask: Ask, credentials: Credentials, quote: Quote, *, expires_at_ms: int
    ) -> Taken | Replay:
        """Admit and hold in one go; who loses a race for an Idempotency-Key is decided anew."""
        for _ in range(TAKE_LIMIT):
            grant = await self.admit(ask, credentials, quote)
            if isinstance(grant, Replay):
                return grant
            try:
                hold = await self._ledger.hold(
                    grant,
                    ask.request,
                    # A run that goes on from a cut one bills the prompt no second time.
                    prompt_tokens=len(quote.prompt_ids) if grant.unbilled_from is None else 0,
                    expires_at_ms=expires_at_ms,
                    also=self.hold_also(grant, ask),
                )
            except Refused as refused:
                if refused.name != idempotency.CLAIM:
                    raise self.problem_of(refused, grant) from refused
                continue
            except Problem as problem:
                if problem.code != ProblemCode.INSUFFICIENT_CREDIT:
                    raise
                if ask.idempotency_key:
                    # The credits may be held by this very request's first sending, which raced
                    # us: then "still runs" is the truth, and this says it.
                    await self.admit(ask, credentials, quote)
                balance = await self._ledger.balance(grant.account, grant.rate.asset)
                raise too_little(grant, quote, balance.available_micro) from problem
            return Taken(grant, hold)
        raise Problem(
            ProblemCode.CONFLICT,
            "many requests with this Idempotency-Key came at once",
            hint="send one and wait for it",
        )

    def payer(
        self, credentials: Credentials, model: str, rates: Sequence[Rate]
    ) -> tuple[Payer, Rate]:
        """Who would pay for a prompt to this model, at which of its rates; from memory alone.

        What it refuses needs no look at the prompt, so it is asked before one is read, and again
        at `admit`: a key may end meanwhile.
        """
        return payer_and_rate(self._proven(credentials, rates), model, rates, self._asset)

    async def admit(self, ask: Ask, credentials: Credentials, quote: Quote) -> Grant | Replay:
        """Who pays for this ask and at most how much, or the replay of its earlier answer.

        Nothing is written. The balance is not looked at: the hold is where it is refused.
        """
        payer, rate = self.payer(credentials, quote.model.id, quote.rates)
        earlier = await self._earlier(ask, payer.account)
        evidence_lives = earlier is not None and self._receipts.has_evidence(
            kin("rcpt", earlier.request), payer.account
        )
        return decide(
            ask,
            quote,
            payer,
            rate,
            earlier=earlier,
            evidence_lives=evidence_lives,
            fresh_seed=int.from_bytes(self._entropy(SEED_BYTES), "little"),
        )

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
    def problem_of(refused: Refused, grant: Grant) -> Problem:
        """What the client hears when the key's part of a hold was refused."""
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

    def _proven(self, credentials: Credentials, rates: Sequence[Rate]) -> Payer | None:
        """What the credentials prove; None when there are none.

        A bad one of ours is refused here and never falls through to the next kind, or to the
        guest. What has not the form of ours is none where none is needed (decision 007): SDKs
        always send some key. Another kind (a payment, a session) is another branch, before this.
        """
        bearer = credentials.bearer
        if bearer is None or (not is_ours(bearer) and is_free(rates, self._asset)):
            return None
        key = self._keys.authenticate(bearer)
        return Payer(key.account, key.id, key.asset)

    async def _earlier(self, ask: Ask, account: str) -> Earlier | None:
        key = idempotency_key(ask, account)
        if key is None:
            return None
        rows = await self._store.read(idempotency.READ, (account, key, self._clock.now_ms()))
        return earlier_of(rows[0]) if rows else None
