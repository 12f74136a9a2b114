"""A facilitator by URL: x402 v2's /supported, /verify and /settle, believed as little as possible.

Every rule that is ours is held here before it is asked. What was sent to /settle and did not come
back as success is ambiguous, whatever was answered: only the chain can say that nothing landed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import msgspec

from parhelion.chain.rpc import Outgoing
from parhelion.chain.solana import RpcCall
from parhelion.payments.facilitator import evm_truth, solana_truth
from parhelion.payments.facilitator.evm_truth import quantity
from parhelion.payments.facilitator.offers import Offer, SolanaOffer, requirements
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Payment,
    Refused,
    Settled,
    unavailable,
)
from parhelion.payments.facilitator.payload import VERSION, Payload, mismatch
from parhelion.payments.facilitator.protocol import (
    RECONCILE_BUDGET_S,
    SETTLE_BUDGET_S,
    VERIFY_BUDGET_S,
)

log = logging.getLogger("parhelion.payments")

ANSWER_LIMIT_BYTES = 64 * 1024
"""An answer has a few hundred bytes; /supported a few kB."""

TRANSACTION_LIMIT_CHARS = 128
"""A Solana signature has up to 88 characters, an EVM hash 66."""

EARLIER_BLOCKS = 10
"""How far below the height that we saw an authorization may still be spent after a small fork."""


class Kind(msgspec.Struct, rename={"version": "x402Version"}):
    """One way to pay that a facilitator settles; `extra` has its fee payer on Solana."""

    version: int
    scheme: str
    network: str
    extra: dict[str, Any] | None = None


class _Supported(msgspec.Struct):
    kinds: list[Kind]


class _Verified(msgspec.Struct, rename="camel"):
    is_valid: bool
    invalid_reason: str | None = None
    payer: str | None = None


class _Settled(msgspec.Struct, rename="camel"):
    success: bool
    transaction: str = ""
    network: str = ""
    error_reason: str | None = None
    payer: str | None = None


class _Accepted(msgspec.Struct):
    extra: dict[str, Any] | None = None


class _Told(msgspec.Struct):
    accepted: _Accepted


class _Request(msgspec.Struct, rename={"version": "x402Version"}):
    version: int
    payment_payload: msgspec.Raw = msgspec.field(name="paymentPayload")
    payment_requirements: dict[str, object] = msgspec.field(name="paymentRequirements")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class _NoAnswer(Exception):
    """Nothing that can be read came back; `left_us` is False where nothing can have arrived."""

    def __init__(self, reason: str, *, left_us: bool = True) -> None:
        super().__init__(reason)
        self.left_us = left_us


Headers: TypeAlias = Callable[[str], Mapping[str, str]]
"""The auth headers of a call, by its path: tokens may be made anew for each."""


class Remote:
    """One facilitator; `chains` are our own ways to read each network.

    What nobody has claimed yet is asked for through `asking` and `heights`, which have connections
    of their own: however many strangers wait there, what is settled does not wait behind them.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Headers,
        chains: Mapping[str, RpcCall],
        clock_s: Callable[[], float],
        *,
        verify_budget_s: float = VERIFY_BUDGET_S,
        settle_budget_s: float = SETTLE_BUDGET_S,
        asking: aiohttp.ClientSession | None = None,
        heights: Mapping[str, RpcCall] | None = None,
    ) -> None:
        self._session = session
        self._asking = asking or session
        self._heights = heights or chains
        self._url = url.rstrip("/")
        self._headers = headers
        self._chains = chains
        self._clock_s = clock_s
        self._verify_budget_s = verify_budget_s
        self._settle_budget_s = settle_budget_s

    async def supported(self) -> tuple[Kind, ...]:
        """What it settles: version 2 and `exact` only."""
        try:
            async with asyncio.timeout(self._verify_budget_s):
                answer = await self._call(self._asking, "GET", "/supported")
            told = _decoded(answer, _Supported, (200,))
        except (_NoAnswer, TimeoutError) as error:
            raise unavailable(Code.FACILITATOR_UNAVAILABLE, f"/supported: {error}") from error
        kinds = (kind for kind in told.kinds if kind.version == VERSION)
        return tuple(kind for kind in kinds if kind.scheme == "exact")

    async def verify(self, payload: Payload, offer: Offer) -> Payment | Refused:
        """Hold a payment against our own rules, then ask; a Problem where it does not answer."""
        refused = mismatch(payload.accepted, offer)
        if refused is not None:
            return refused
        judged = await asyncio.to_thread(_judged, payload, offer, self._clock_s())
        if isinstance(judged, Refused):
            return judged
        try:
            async with asyncio.timeout(self._verify_budget_s):
                judged = await self._seen(judged)
                body = _request(payload, offer)
                answer = await self._call(self._asking, "POST", "/verify", Outgoing(body))
            told = _decoded(answer, _Verified, (200, 400, 402, 422))
        except (_NoAnswer, TimeoutError) as error:
            raise unavailable(Code.FACILITATOR_UNAVAILABLE, f"/verify: {error}") from error
        if not told.is_valid:
            reason = (told.invalid_reason or "without a reason")[:200]
            return Refused(code=Code.FACILITATOR_REFUSED, reason=reason)
        if answer.status != 200 or not _is_payer(told.payer, judged):
            reason = "/verify: it says valid and contradicts itself"
            raise unavailable(Code.FACILITATOR_UNAVAILABLE, reason)
        return msgspec.structs.replace(judged, request=body)

    async def settle(self, payment: Payment) -> Outcome:
        """Have a verified payment settled, once."""
        call = Outgoing(payment.request)
        try:
            async with asyncio.timeout(self._settle_budget_s):
                answer = await self._call(self._session, "POST", "/settle", call)
            told = _decoded(answer, _Settled, (200, 400, 402, 422))
        except _NoAnswer as error:
            if not error.left_us:
                return Refused(code=Code.FACILITATOR_UNAVAILABLE, reason=f"/settle: {error}")
            return Ambiguous(reason=f"/settle: {error}")
        except TimeoutError:
            reason = f"/settle: no answer within {self._settle_budget_s} s"
            if not call.has_left:
                return Refused(code=Code.FACILITATOR_UNAVAILABLE, reason=reason)
            return Ambiguous(reason=reason)
        transaction = told.transaction if _is_transaction(told.transaction) else ""
        if not told.success:
            reason = (told.error_reason or "without a reason")[:200]
            return Ambiguous(reason=f"/settle: {reason}", transaction=transaction)
        if answer.status != 200 or told.network != payment.network or not transaction:
            reason = "/settle: it says success and contradicts itself"
            return Ambiguous(reason=reason, transaction=transaction)
        if not _is_payer(told.payer, payment):
            return Ambiguous(reason="/settle: it names another payer", transaction=transaction)
        return Settled(transaction=transaction)

    async def reconcile(self, payment: Payment) -> Outcome:
        """What the chain says of it, read by ourselves: the facilitator is not asked."""
        rpc = self._chains.get(payment.network)
        if rpc is None:
            raise unavailable(Code.CHAIN_UNAVAILABLE, f"{payment.network} is not configured")
        try:
            async with asyncio.timeout(RECONCILE_BUDGET_S):
                if isinstance(payment, EvmPayment):
                    return await evm_truth.reconcile(rpc, payment)
                return await solana_truth.reconcile(rpc, payment)
        except TimeoutError as error:
            raise unavailable(Code.CHAIN_UNAVAILABLE, "no answer in time") from error

    async def _seen(self, payment: Payment) -> Payment:
        """The height from which on an authorization may be spent; needed to find it again."""
        rpc = self._heights.get(payment.network)
        if rpc is None:
            raise _NoAnswer(f"{payment.network} is not configured")
        if not isinstance(payment, EvmPayment):
            return payment
        try:
            height = quantity(await rpc("eth_blockNumber", []))
        except evm_truth.FAILURES as error:
            raise _NoAnswer(str(error)) from error
        return msgspec.structs.replace(payment, seen_block=max(0, height - EARLIER_BLOCKS))

    async def _call(
        self, session: aiohttp.ClientSession, method: str, path: str, call: Outgoing | None = None
    ) -> _Answer:
        headers = {"content-type": "application/json", **self._headers(path)}
        try:
            # A redirect would carry payment and token to whoever is named.
            async with session.request(
                method,
                self._url + path,
                data=call,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                return _Answer(answer.status, await _bounded(answer.content))
        except aiohttp.ClientConnectorError as error:
            raise _NoAnswer(str(error), left_us=False) from error
        except (aiohttp.ClientError, OSError) as error:
            has_left = call is not None and call.has_left
            raise _NoAnswer(f"no answer ({type(error).__name__})", left_us=has_left) from error


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    try:
        await content.readexactly(ANSWER_LIMIT_BYTES + 1)
    except asyncio.IncompleteReadError as error:
        return error.partial
    raise _NoAnswer(f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")


def _judged(payload: Payload, offer: Offer, now_s: float) -> Payment | Refused:
    # Loaded here, in a thread, when the first payment comes.
    if isinstance(offer, SolanaOffer):
        from parhelion.payments.facilitator import solana

        return solana.judge_payload(payload.payload, offer)
    from parhelion.payments.facilitator import evm

    return evm.judge(payload.payload, offer, now_s)


def _request(payload: Payload, offer: Offer) -> bytes:
    ours = requirements(offer)
    extra = msgspec.json.decode(payload.raw, type=_Told).accepted.extra or {}
    # Some compare the two offers whole: what the client repeats beside our terms stays in.
    ours["extra"] = {**extra, **_fields(ours["extra"])}
    return msgspec.json.encode(_Request(VERSION, msgspec.Raw(payload.raw), ours))


def _fields(value: object) -> dict[str, Any]:
    return msgspec.convert(value, dict[str, Any])


def _decoded(answer: _Answer, shape: type[Any], statuses: tuple[int, ...]) -> Any:
    if answer.status not in statuses:
        raise _NoAnswer(f"HTTP {answer.status}")
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _NoAnswer(f"HTTP {answer.status} and not x402: {error}") from error


def _is_payer(said: str | None, payment: Payment) -> bool:
    if isinstance(payment, EvmPayment):
        return said is None or said.lower() == payment.payer
    return said is None or said == payment.payer


def _is_transaction(text: str) -> bool:
    return 0 < len(text) <= TRANSACTION_LIMIT_CHARS and text.isascii() and text.isalnum()
