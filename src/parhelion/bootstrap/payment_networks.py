"""Each network that we are paid on, opened at the start: keys read, chain looked at, carrier made.

What is wrong is refused here, with what to do, and not at the first payment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from parhelion.bootstrap.seller import supply
from parhelion.chain.rpc import JsonRpc, RpcRefused, RpcUnavailable
from parhelion.config import LOOPBACK
from parhelion.identity import read_secret
from parhelion.payments.facilitator import Embedded, EmbeddedEvm, EmbeddedSolana, Remote
from parhelion.payments.facilitator.remote import Headers
from parhelion.payments.x402 import Payee
from parhelion.payments.x402.keys import check_known, evm_key, solana_key
from parhelion.payments.x402.networks import Family, check_address
from parhelion.payments.x402.offers import SCHEME
from parhelion.payments.x402.payout_evm import EvmPayout
from parhelion.payments.x402.payout_solana import SolanaPayout
from parhelion.payments.x402.payouts import Payout
from parhelion.payments.x402.survey import Survey, survey, without_account
from parhelion.words import Clock, Problem, ProblemCode

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount
    from solders.keypair import Keypair

log = logging.getLogger("parhelion.bootstrap")

LOOK_WAIT_S = 20.0
"""How long a start waits for a network's node: a public one that is busy answers within seconds,
one that is away is better known at the start than at the first payment."""

LOOK_AGAIN_S = 0.5

LOOK_EVERY_S = 0.2
"""Half a slot of Solana, a tenth of the time of Base's blocks."""

LOCAL_LOOK_EVERY_S = 0.02
"""A chain of this machine has a payment within milliseconds, and minds no questions."""

METHOD_NOT_FOUND = -32601


CONNECTIONS_LIMIT = 256
"""Of each session. Whoever has more to ask waits in it: for money that moves as many as are
settled at once; of strangers fewer come this far (x402/strangers.py)."""


class Lines:
    """Sessions for JSON-RPC and facilitators: straight to this machine, else as the proxy says.

    Two of each, with connections of their own: one for money that moves, one for what anybody may
    have us ask. A node that is slow to strangers' questions must not keep a payment from leaving.
    """

    def __init__(self) -> None:
        self._near, self._far = _session(False), _session(True)
        self._near_strangers, self._far_strangers = _session(False), _session(True)

    def to(self, url: str) -> aiohttp.ClientSession:
        """The session for a URL, for what settles, is watched, or is paid out."""
        return self._near if _is_near(url) else self._far

    def for_strangers(self, url: str) -> aiohttp.ClientSession:
        """The session for a URL, for what anybody may have us ask: it may be full of questions."""
        return self._near_strangers if _is_near(url) else self._far_strangers

    async def close(self) -> None:
        """Hang up."""
        sessions = (self._near, self._far, self._near_strangers, self._far_strangers)
        for session in sessions:
            await session.close()


def _session(trusts_env: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS_LIMIT)
    return aiohttp.ClientSession(connector=connector, trust_env=trusts_env)


def _is_near(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one network that are here: the fee payer's, and the payee's own."""

    solana_fee_payer: Keypair | None = None
    solana_payee: Keypair | None = None
    evm_fee_payer: LocalAccount | None = None
    evm_payee: LocalAccount | None = None

    @property
    def fee_payer(self) -> str | None:
        """Who pays the network's fees for us; None where a remote facilitator does."""
        if self.solana_fee_payer is not None:
            return str(self.solana_fee_payer.pubkey())
        return None if self.evm_fee_payer is None else str(self.evm_fee_payer.address)


@dataclass(frozen=True, slots=True)
class Opened:
    """A network that payments can be taken on."""

    payee: Payee
    rpc: JsonRpc
    strangers: JsonRpc
    """The same node, on the line of what anybody may have us ask."""
    facilitator: Embedded | Remote
    fee_payer: str
    payout: Payout | None
    """What sends withdrawals; None where the payee's key is not here."""


async def open_network(payee: Payee, lines: Lines, clock: Clock) -> Opened:
    """Keys, chain and facilitator of one network; Problem that says what is wrong with it."""
    keys = await asyncio.to_thread(keys_of, payee)
    rpc = JsonRpc(lines.to(payee.rpc_url), payee.rpc_url)
    strangers = JsonRpc(lines.for_strangers(payee.rpc_url), payee.rpc_url)
    found = await looked_at(payee, rpc, keys)
    payee = found.payee
    carrier = _carrier(payee, rpc, strangers, keys, clock)
    payout = _payout(payee, rpc, keys, carrier, clock)
    if not payee.is_embedded:
        remote = _remote(payee, lines, rpc, strangers, clock)
        fee_payer = await supported_fee_payer(payee, remote)
        return Opened(payee, rpc, strangers, remote, fee_payer, payout)
    assert carrier is not None
    embedded = Embedded({payee.network.id: carrier})
    return Opened(payee, rpc, strangers, embedded, carrier.address, payout)


async def examined(payee: Payee, clock: Clock, wait_s: float) -> Survey:
    """The same look at a network without opening or giving anything, for whoever only asks."""
    keys = await asyncio.to_thread(keys_of, payee)
    lines = Lines()
    try:
        rpc = JsonRpc(lines.to(payee.rpc_url), payee.rpc_url, wait_s=wait_s)
        found = await patiently(payee, lambda: survey(payee, rpc, keys.fee_payer), wait_s)
        if not payee.is_embedded:
            await supported_fee_payer(payee, _remote(payee, lines, rpc, rpc, clock))
    finally:
        await lines.close()
    if not found.has_account:
        raise without_account(found.payee)
    return found


def load_signers() -> None:
    """Import what signs on either family; slow, and harmless where it was done before."""
    import eth_account  # noqa: F401
    import solders.keypair  # noqa: F401


def keys_of(payee: Payee) -> Keys:
    """The key files of a payee, read and checked; slow at first: it loads what signs."""
    network = payee.network
    check_known(network, payee.pay_to, "pay_to")
    fees = Path(payee.fee_payer_key_file) if payee.fee_payer_key_file else None
    own = Path(payee.pay_to_key_file) if payee.pay_to_key_file else None
    if network.family is Family.SOLANA:
        found = Keys(
            solana_fee_payer=None if fees is None else solana_key(fees, network),
            solana_payee=None if own is None else solana_key(own, network),
        )
        payees = None if found.solana_payee is None else str(found.solana_payee.pubkey())
        is_payees = payees in (None, payee.pay_to)
    else:
        found = Keys(
            evm_fee_payer=None if fees is None else evm_key(fees, network),
            evm_payee=None if own is None else evm_key(own, network),
        )
        payees = None if found.evm_payee is None else str(found.evm_payee.address)
        is_payees = payees is None or payees.lower() == payee.pay_to.lower()
    if not is_payees:
        raise _invalid(
            f"pay_to_key_file of {network.names[-1]} is the key of {payees}, not of pay_to",
            f"name the key of {payee.pay_to}, or none: then nothing can be withdrawn there",
        )
    return found


async def looked_at(payee: Payee, rpc: JsonRpc, keys: Keys) -> Survey:
    """The network as its node tells it, with what is missing on a local one put there."""
    name = payee.network.names[-1]
    found = await patiently(payee, lambda: survey(payee, rpc, keys.fee_payer))
    if payee.network.is_local and keys.fee_payer is not None:
        try:
            found = await supply(found, rpc, keys.fee_payer, keys.solana_fee_payer)
        except (RpcRefused, RpcUnavailable) as error:
            # Another chain than ours at loopback (anvil, say) has another faucet, or none.
            log.warning("no play money", extra={"network": name, "cause": str(error)})
    if not found.has_account:
        raise without_account(found.payee)
    if found.fee_units == 0:
        log.warning(
            "the fee payer has nothing to pay fees with: no payment can be settled",
            extra={"network": name, "fee_payer": keys.fee_payer},
        )
    return found


async def patiently(
    payee: Payee, look: Callable[[], Awaitable[Survey]], wait_s: float = LOOK_WAIT_S
) -> Survey:
    """What `look` finds, tried again while the network's node is away; Problem after `wait_s`."""
    cause = "no answer"
    try:
        async with asyncio.timeout(wait_s):
            while True:
                try:
                    return await look()
                except RpcRefused as error:
                    if error.code == METHOD_NOT_FOUND:
                        raise _no_such_node(payee, str(error)) from error
                    cause = str(error)  # A public node that is asked too much says so like this.
                except RpcUnavailable as error:
                    cause = str(error)
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError as error:
        raise Problem(
            ProblemCode.PAYMENT_UNAVAILABLE,
            f"the node of {payee.network.names[-1]} at {shown_url(payee.rpc_url)} does not answer "
            f"({cause[:200]}): nothing could be sold there",
            hint="is rpc_url right, and does this machine reach it? Or take the network out of "
            "[[x402.networks]]",
        ) from error


async def supported_fee_payer(payee: Payee, facilitator: Remote) -> str:
    """Whom a remote facilitator names as fee payer; Problem where it does not settle there."""
    network = payee.network
    where = shown_url(payee.facilitator)
    try:
        kinds = await facilitator.supported()
    except Problem as problem:
        raise Problem(
            ProblemCode.PAYMENT_UNAVAILABLE,
            f"the facilitator at {where} does not answer: {problem.message}",
            hint="is facilitator right, and facilitator_auth_file, where it needs one? "
            'facilitator = "embedded" needs nobody',
        ) from problem
    kind = next((kind for kind in kinds if kind.network == network.id), None)
    if kind is None:
        others = ", ".join(sorted({kind.network[:64] for kind in kinds})[:8]) or "nothing"
        raise _invalid(
            f"the facilitator at {where} does not settle {SCHEME!r} of x402 v2 on {network.id}; "
            f"it settles {others}",
            'name another facilitator, or facilitator = "embedded" with a fee_payer_key_file',
        )
    if network.family is Family.EVM:
        return ""
    fee_payer = (kind.extra or {}).get("feePayer")
    if not isinstance(fee_payer, str):
        raise _invalid(
            f"the facilitator at {where} names no fee payer for {network.id}",
            'name another facilitator, or facilitator = "embedded" with a fee_payer_key_file',
        )
    check_address(network, fee_payer, "the facilitator's fee payer")
    return fee_payer


def auth_of(payee: Payee) -> Headers:
    """The Authorization header of every call to a remote facilitator, from its file."""
    if not payee.facilitator_auth_file:
        return lambda path: {}
    value = read_secret(Path(payee.facilitator_auth_file))
    # As a whole header line, or its value alone.
    value = value.removeprefix("Authorization:").strip()
    return lambda path: {"authorization": value}


def _carrier(
    payee: Payee, rpc: JsonRpc, strangers: JsonRpc, keys: Keys, clock: Clock
) -> EmbeddedSolana | EmbeddedEvm | None:
    """What sends with the key that pays fees: the fee payer's, else the payee's own."""
    every_s = LOCAL_LOOK_EVERY_S if payee.network.is_local else LOOK_EVERY_S
    if (pair := keys.solana_fee_payer or keys.solana_payee) is not None:
        return EmbeddedSolana(rpc, pair, look_every_s=every_s, trying=strangers)
    if (account := keys.evm_fee_payer or keys.evm_payee) is not None:
        seconds = _seconds(clock)
        return EmbeddedEvm(rpc, account, seconds, look_every_s=every_s, trying=strangers)
    return None


def _payout(
    payee: Payee,
    rpc: JsonRpc,
    keys: Keys,
    carrier: EmbeddedSolana | EmbeddedEvm | None,
    clock: Clock,
) -> Payout | None:
    """What sends withdrawals on a network; None where the payee's key is not here."""
    network = payee.network
    if keys.solana_payee is not None:
        fees = keys.solana_fee_payer or keys.solana_payee
        return SolanaPayout(network, rpc, keys.solana_payee, fees)
    if keys.evm_payee is not None and isinstance(carrier, EmbeddedEvm):
        # The one that carries payments, too: it counts its account's transactions.
        return EvmPayout(network, rpc, keys.evm_payee, carrier, _seconds(clock))
    return None


def _remote(payee: Payee, lines: Lines, rpc: JsonRpc, strangers: JsonRpc, clock: Clock) -> Remote:
    return Remote(
        lines.to(payee.facilitator),
        payee.facilitator,
        auth_of(payee),
        {payee.network.id: rpc},
        _seconds(clock),
        asking=lines.for_strangers(payee.facilitator),
        heights={payee.network.id: strangers},
    )


def _seconds(clock: Clock) -> Callable[[], float]:
    return lambda: clock.now_ms() / 1000


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: many providers put a key into path or query."""
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def _no_such_node(payee: Payee, cause: str) -> Problem:
    name = payee.network.names[-1]
    return _invalid(
        f"what answers at {shown_url(payee.rpc_url)} is no node of {name}: {cause[:200]}",
        f"name a JSON-RPC node of {name} in rpc_url",
    )


def _invalid(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
