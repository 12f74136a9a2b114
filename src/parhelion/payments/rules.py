"""Who pays what for an ask: the decisions of the gate; pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from parhelion.identity import Session
from parhelion.ledger import GUEST, amount_text, most_tokens, price
from parhelion.payments.idempotency import Earlier
from parhelion.words import (
    Ask,
    Bought,
    Grant,
    Problem,
    ProblemCode,
    Quote,
    Rate,
    Record,
    Tier,
    kin,
)

IDEMPOTENCY_KEY_LIMIT_CHARS = 255
"""An Idempotency-Key is a UUID or the like (SDKs send 45 characters); a longer one is a mistake."""

PAYMENT_LIMIT_CHARS = 16 * 1024
"""A payment of either chain with resource and extensions takes under 4 kB; servers stop at 64."""

LANDED_MEMO = "x402 "
"""Stands before the transaction in the memo of what came from a chain, or left for one."""

RUNNING_RETRY_S = 2
"""When to ask again about a request that still runs."""


class Replay(Record, frozen=True, kw_only=True):
    """A finished Idempotency-Key whose evidence lives: its answer is sent again, free."""

    request: str
    receipt: str
    account: str
    bought: Bought | None = None
    """What paid for it, where that is how it was found."""


class Undelivered(Problem):
    """An answer that was paid for by itself, and failed; what was not delivered is credited.

    `bought` is the payment, None where a session had bought the answer before.
    """

    def __init__(self, problem: Problem, bought: Bought | None) -> None:
        whose = "" if bought is None else f" (transaction {bought.transaction})"
        super().__init__(
            problem.code,
            problem.message,
            hint=f"what you paid and did not get is credited to your balance{whose}: sign in with "
            "the wallet to spend it",
            param=problem.param,
            retry_after_s=problem.retry_after_s,
        )
        self.bought = bought


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays, as a credential proved it; every kind of credential ends as one of these.

    `is_limited`: its key spends a part of the account's balance only, and so it reads no more than
    that part (decision 024).
    """

    account: str
    key: str | None
    asset: str
    session: Session | None = None
    is_limited: bool = False

    @property
    def reads_key(self) -> str | None:
        """The key whose part of the account is all that this payer reads; None: all of it."""
        return self.key if self.is_limited else None

    @property
    def answer(self) -> Session | None:
        """The session that is worth one answer of a tier, and reads no more than that answer's."""
        return None if self.session is None or self.session.tier is None else self.session


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who pays for a request and at which rate, before anything of it was read.

    `buys`: by a payment of its own, `payment` being the one that came with it; the payer's account
    is then credited with what is left of it (GUEST: the wallet that paid is). `url` is what offers
    name; `address` is where the request comes from, "" where that is not known. `spends` is what
    the key of a buyer spends where that does not pay for this, "" otherwise.
    """

    payer: Payer
    rate: Rate
    buys: bool = False
    payment: bytes | None = None
    url: str = ""
    address: str = ""
    spends: str = ""


Reserve = Callable[[], Awaitable[Callable[[], None]]]
"""Reserves a slot for a paid request before its payment is settled (DESIGN 5); returns what frees
it. Problem where none comes free in time: then nothing was sent."""


def no_credentials() -> Problem:
    """What is said where a key is needed and none came."""
    return Problem(
        ProblemCode.MISSING_CREDENTIALS,
        "no API key came with this request",
        hint="send `Authorization: Bearer sk-prl-...`; the pool's owner makes keys",
    )


def payer_and_rate(
    payer: Payer | None, model: str, at: Sequence[Rate], pool_asset: str
) -> tuple[Payer, Rate]:
    """Who pays at which of the model's rates; `payer` None means that no credential came.

    Without one, a model that costs nothing in the pool's asset is served to the guest, by the
    same path as everything else. The rate is always that of the payer's own asset.
    """
    rates = {rate.asset: rate for rate in at}
    if payer is None:
        if not is_free(at, pool_asset):
            raise no_credentials()
        return Payer(GUEST, None, pool_asset), rates[pool_asset]
    if payer.asset not in rates:
        sold_in = ", ".join(sorted(rates)) or "nothing"
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"this key spends {payer.asset}, and {model} is sold in {sold_in}",
            hint="use a key of that asset, or another model; nothing is exchanged",
            param="model",
        )
    return payer, rates[payer.asset]


def is_free(rates: Sequence[Rate], pool_asset: str) -> bool:
    """Whether a model costs nothing in the pool's own asset, so that a guest may ask it."""
    return any(
        rate.asset == pool_asset and rate.prompt_micro == 0 == rate.completion_micro
        for rate in rates
    )


def too_little(grant: Grant, quote: Quote, available_micro: int) -> Problem:
    """402 in whole units: what the ask can cost at most, what there is, and what would fit."""
    asset, again = grant.rate.asset, grant.unbilled_from
    return Problem(
        ProblemCode.INSUFFICIENT_CREDIT,
        f"This request can cost at most {amount_text(grant.amount_micro, asset)} "
        f"({len(quote.prompt_ids)} prompt tokens, max_tokens {quote.max_tokens}); "
        f"{amount_text(available_micro, asset)} is available.",
        hint=_what_fits(grant, len(quote.prompt_ids) if again is None else 0, available_micro),
        param="max_tokens",
    )


def over_limit(grant: Grant) -> Problem:
    """402 of a key whose own spending limit the ask could pass."""
    return Problem(
        ProblemCode.KEY_LIMIT_REACHED,
        f"This request can cost at most {amount_text(grant.amount_micro, grant.rate.asset)}: "
        "more than is left of this key's spending limit.",
        hint="ask for fewer max_tokens, or use a key with a higher limit",
    )


def spends_another(offers: Problem, asset: str, tier: Tier | None) -> Problem:
    """The offers, with why the key that came does not pay."""
    sold = "this" if tier is None else f"a {tier.name} answer"
    return Problem(
        offers.code,
        f"this key spends {asset}, which does not pay for {sold}; {offers.message}",
        hint=offers.hint,
        param=offers.param,
        offer=offers.offer,
    )


def refuse_v1() -> Problem:
    """What the client of x402 version 1 hears, whose header is another one."""
    return Problem(
        ProblemCode.PAYMENT_INVALID,
        "X-PAYMENT is x402 version 1, which is not spoken here",
        hint="use a client of x402 version 2: it sends PAYMENT-SIGNATURE",
        param="X-PAYMENT",
    )


def check_session(session: Session | None, tier: Tier | None) -> None:
    """Problem INVALID_SESSION where a session was opened for something else than this."""
    if session is None or session.tier is None:
        return
    if tier is None or tier.name != session.tier:
        raise Problem(
            ProblemCode.INVALID_SESSION,
            f"this session is for one {session.tier} answer",
            hint=f"send the prompt to /{session.tier}/v1/chat/completions",
        )


def _what_fits(grant: Grant, prompt_tokens: int, available_micro: int) -> str:
    most = most_tokens(grant.rate, prompt_tokens, available_micro)
    if most is None or most < 1:
        return "not even one token of an answer fits: add credits, or shorten the prompt"
    return f"max_tokens {most + (grant.unbilled_from or 0)} would fit; or add credits"


def check_tier(tier: Tier | None, prompt_tokens: int) -> None:
    """Problem CONTEXT_LENGTH_EXCEEDED where a tier takes no prompt of this length."""
    if tier is not None and prompt_tokens > tier.max_prompt_tokens:
        raise Problem(
            ProblemCode.CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {prompt_tokens:,} tokens; {tier.name} takes "
            f"{tier.max_prompt_tokens:,} tokens",
            hint="shorten the prompt, or take a larger tier; this cost nothing",
        )


def idempotency_key(ask: Ask, account: str) -> str | None:
    """The key that this ask is claimed under, if any.

    A guest's has no effect: a guest is billed nothing, and the account is many strangers', whose
    answers must not be replayed to one another.
    """
    return None if account == GUEST else ask.idempotency_key


def check_idempotency_key(key: str) -> str:
    """The key as it came with the request, whoever sent it; Problem for one that cannot be."""
    fits = 1 <= len(key) <= IDEMPOTENCY_KEY_LIMIT_CHARS
    if not fits or not (key.isascii() and key.isprintable()):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_LIMIT_CHARS} printable ASCII characters",
            hint="a UUID made for this one request is a good one",
            param="Idempotency-Key",
        )
    return key


def decide(
    ask: Ask,
    quote: Quote,
    payer: Payer,
    rate: Rate,
    *,
    earlier: Earlier | None,
    evidence_lives: bool,
    fresh_seed: int,
    billed_micro: int = 0,
) -> Grant | Replay:
    """The grant for this ask, or the replay of an earlier answer; Problem otherwise.

    `earlier` is what the same Idempotency-Key left. A cut run is gone on with: the same seed, and
    neither the prompt nor the ids it billed are billed again; `billed_micro` is what it cost.
    """
    seed = fresh_seed if ask.seed is None else ask.seed
    unbilled_from = None
    if earlier is not None:
        replay = _replay(ask, payer, earlier, evidence_lives)
        if replay is not None:
            return replay
        seed, unbilled_from = earlier.seed, earlier.billed_ids
    check_tier(ask.tier, len(quote.prompt_ids))
    check_price(ask, quote, rate)
    return Grant(
        account=payer.account,
        key=payer.key,
        rate=rate,
        amount_micro=ask.tier.price_micro - billed_micro
        if ask.tier is not None
        else worst_cost(rate, len(quote.prompt_ids), quote.max_tokens, unbilled_from),
        seed=seed,
        unbilled_from=unbilled_from,
        tier=ask.tier,
    )


def check_price(ask: Ask, quote: Quote, rate: Rate) -> None:
    """Problem INVALID_REQUEST when a model costs more than the client's `max_price`.

    400 and no other status: paying more is what the client ruled out (402 would ask for it), and
    waiting lowers no rate (a 503 would be sent again and again by the SDKs).
    """
    limit = None if ask.provider is None else ask.provider.max_price
    if limit is None:
        return
    sides = (
        ("prompt", rate.prompt_micro, limit.prompt_micro),
        ("completion", rate.completion_micro, limit.completion_micro),
    )
    for side, rate_micro, most_micro in sides:
        if most_micro is not None and rate_micro > most_micro:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"{quote.model.id} costs {amount_text(rate_micro, rate.asset)} for 1,000,000 "
                f"{side} tokens, more than your max_price of {amount_text(most_micro, rate.asset)}",
                hint="allow more, or ask another model: GET /v1/models has the rates",
                param=f"provider.max_price.{side}",
            )


def worst_cost(rate: Rate, prompt_tokens: int, max_tokens: int, unbilled_from: int | None) -> int:
    """The most that an ask can cost: the prompt and every id up to `max_tokens`, billed once."""
    if unbilled_from is None:
        return price(rate, prompt_tokens, max_tokens)
    return price(rate, 0, max(0, max_tokens - unbilled_from))


def _replay(ask: Ask, payer: Payer, earlier: Earlier, evidence_lives: bool) -> Replay | None:
    """The earlier answer if it is whole; None to run again; Problem when neither may be."""
    if earlier.body_hash != ask.body_hash:
        raise Problem(
            ProblemCode.IDEMPOTENCY_MISMATCH,
            "this Idempotency-Key came with another body before",
            hint="a new request needs a new key; keys are kept for 24 hours",
        )
    if earlier.state == "cut":
        return None
    if earlier.state == "running":
        raise Problem(
            ProblemCode.IDEMPOTENCY_RUNNING,
            f"the request with this Idempotency-Key still runs: {earlier.request}",
            hint="wait and send it again: the finished answer is then replayed",
            retry_after_s=RUNNING_RETRY_S,
        )
    receipt = kin("rcpt", earlier.request)
    if not evidence_lives:
        raise Problem(
            ProblemCode.IDEMPOTENCY_FINISHED,
            f"this request was answered and charged; its text is no longer kept: {receipt}",
            hint=f"see `GET /v1/receipts/{receipt}`; for a new answer send a new key",
        )
    return Replay(request=earlier.request, receipt=receipt, account=payer.account)
