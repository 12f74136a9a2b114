"""One request and at most one payment for it: asked, shown, counted, signed, sent, answered.

Everything that touches the world is an argument, and one `Buyer.buy` signs at most once: what is
sent again after a lost answer are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from parhelion.chain.wallet import Wallet
from parhelion.identity import Entropy
from parhelion.payments.buyer.course import Attempt, Step, next_step
from parhelion.payments.buyer.offers import Choice, Offered, choose, read_offers
from parhelion.payments.buyer.seen import Told, read_response
from parhelion.payments.buyer.signing import Signed, sign
from parhelion.payments.buyer.spending import Limits, Spending
from parhelion.payments.x402.networks import Family
from parhelion.words import Problem, ProblemCode, Record

REQUIRED = "PAYMENT-REQUIRED"
SIGNATURE = "PAYMENT-SIGNATURE"
RESPONSE = "PAYMENT-RESPONSE"
PAY = 402


class Lost(Exception):
    """No answer came, or its beginning broke off: whether the request arrived, nobody knows."""


class Answer(Protocol):
    """An HTTP answer whose body nobody has read yet."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    def header(self, name: str) -> str | None:
        """A header's value."""
        ...

    def reason(self) -> str:
        """What the body says went wrong, in short; reads it."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Send = Callable[[Mapping[str, str]], Answer]
"""The request with these headers more; raises Lost."""

Consent = Callable[[Choice, Offered, int], bool]
"""Whether the offer is to be paid; the last is what is left of the day, before it."""

Prepare = Callable[[Choice], tuple[str, int]]
"""A recent blockhash (Solana), and the chain's height (EVM), for a payment that is signed now."""


class Bought(Record, frozen=True, kw_only=True):
    """An answer, and the payment that was sent for it, if any."""

    signed: Signed | None
    told: Told | None
    sendings: int = 0


class Unpaid(Problem):
    """A payment was signed and sent, and no answer was bought by it."""

    def __init__(self, status: int, why: str, bought: Bought) -> None:
        problem = _refused(status, why)
        super().__init__(problem.code, problem.message, hint=problem.hint)
        self.bought = bought
        # What the seller answered is settled in his mind; what he never answered may be on its way.
        self.is_refused = 300 <= status < 500


class Buyer:
    """A wallet that buys within its limits."""

    def __init__(
        self,
        wallet: Wallet,
        spending: Spending,
        limits: Limits,
        *,
        consent: Consent,
        prepare: Prepare,
        now_ms: Callable[[], int],
        entropy: Entropy,
        pause: Callable[[float], None],
        network: str | None = None,
    ) -> None:
        self._wallet = wallet
        self._spending = spending
        self._limits = limits
        self._consent = consent
        self._prepare = prepare
        self._now_ms = now_ms
        self._entropy = entropy
        self._pause = pause
        self._network = network

    def buy(self, send: Send) -> tuple[Answer, Bought]:
        """The answer to a request, paid for where the seller asks for it; Problem where not.

        The answer is the caller's to close. An answer of 402 leaves here as a Problem only.
        """
        try:
            answer = send({})
        except Lost as lost:
            raise Problem(
                ProblemCode.NO_NODE, f"no answer: {lost}", hint="nothing was signed or paid"
            ) from lost
        if answer.status != PAY:
            return answer, Bought(signed=None, told=None)
        header = answer.header(REQUIRED)
        answer.close()
        return self._pay(send, self._signed(header))

    def _signed(self, header: str | None) -> Signed:
        wallet = {Family.SOLANA: self._wallet.solana, Family.EVM: self._wallet.evm}
        offered = read_offers(header, wallet)
        choice = choose(offered, self._network, self._limits.request_micro)
        asset, limit_micro = counted_as(choice), self._limits.day_micro
        left_micro = self._spending.left_micro(asset, limit_micro, choice.amount_micro)
        if not self._consent(choice, offered, left_micro):
            raise Problem(ProblemCode.CANCELLED, "not paid", hint="nothing was signed")
        blockhash, seen_block = self._prepare(choice)
        signed = sign(
            choice,
            offered,
            self._wallet,
            now_s=self._now_ms() // 1000,
            entropy=self._entropy,
            blockhash=blockhash,
            seen_block=seen_block,
        )
        # Durable before it leaves: what a crash hides from us was spent.
        self._spending.reserve(asset, choice.amount_micro, limit_micro)
        return signed

    def _pay(self, send: Send, signed: Signed) -> tuple[Answer, Bought]:
        sent = 0
        while True:
            sent += 1
            answer: Answer | None = None
            try:
                answer = send({SIGNATURE: signed.header})
                attempt, status = Attempt.ANSWERED, answer.status
                why = ""
            except Lost as lost:
                attempt, status, why = Attempt.LOST, 0, f"no answer: {lost}"
            told = None if answer is None else read_response(answer.header(RESPONSE))
            bought = Bought(signed=signed, told=told, sendings=sent)
            retry_after_s = None if answer is None else _seconds(answer.header("Retry-After"))
            verdict = next_step(attempt, status, retry_after_s, sent)
            if verdict.step is Step.DELIVER and answer is not None:
                return answer, bought
            if answer is not None:
                why = _reason(answer)
                answer.close()
            if verdict.step is Step.STOP:
                raise Unpaid(status, why, bought)
            self._pause(verdict.wait_s)


def counted_as(choice: Choice) -> str:
    """The asset under which an offer counts for the day: by the network's id, never by a label."""
    from parhelion.payments.x402.networks import known

    return known(choice.network.id).asset


def _reason(answer: Answer) -> str:
    """Why a payment was answered with an error, in the seller's words."""
    told = read_response(answer.header(RESPONSE))
    if told is not None and told.reason:
        return told.reason
    if answer.status == PAY and (header := answer.header(REQUIRED)) is not None:
        try:
            said = read_offers(header, {Family.SOLANA: "", Family.EVM: ""}).error
        except Problem:
            said = ""
        if said:
            return said
    return answer.reason()


def _refused(status: int, why: str) -> Problem:
    if status == PAY:
        return Problem(
            ProblemCode.PAYMENT_INVALID,
            f"the seller refused the payment: {why or 'it does not say why'}",
            hint="no second one was signed; it counts for today's limit until 0:00 UTC",
        )
    words = f"the seller answered {status}: {why}" if status else f"the answer never came: {why}"
    return Problem(
        ProblemCode.PAYMENT_PENDING,
        f"paid, perhaps, and not served: {words}",
        hint="no second payment was signed; look at the chain before you pay again",
    )


def _seconds(value: str | None) -> int | None:
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 6:
        return None
    return int(value)
