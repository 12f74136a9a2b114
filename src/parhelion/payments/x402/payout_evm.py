"""Withdrawals on EVM chains: an EIP-3009 authorization of ours, carried by the fee payer.

Its nonce is the hash of the withdrawal's id, and the token itself spends a nonce once: however
often it is signed, sent, carried by strangers or restored from a backup, one of them lands.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from parhelion.chain.evm import find_authorization, is_authorization_used
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.payments.facilitator.embedded_evm import REORG_BLOCKS, EmbeddedEvm
from parhelion.payments.facilitator.evm_truth import quantity
from parhelion.payments.facilitator.offers import EvmOffer
from parhelion.payments.facilitator.outcomes import EvmPayment, Refused
from parhelion.payments.x402.networks import Network
from parhelion.payments.x402.outside import Landed, Sight
from parhelion.payments.x402.payouts import Impossible, Order, Signed, check_balance
from parhelion.payments.x402.readers import EvmReader

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from parhelion.chain.evm import Rpc

log = logging.getLogger("parhelion.payments")

VALID_S = 300
"""Long enough for a busy block or a fee payer without gas; then it is signed anew, same nonce."""

STALE_S = 30
"""One that ends within this time is signed anew before it is sent."""

SEND_S = 4.0
"""Broadcast, and a look for its receipt: Base makes a block every 2 s."""

RESEND_S = 30.0
"""Each carrying is a transaction of its own, and what comes second reverts at our cost."""

LOOK_BACK_BLOCKS = 9_000
"""Public nodes tell logs of some 10,000 blocks at once: five hours of Base."""

BALANCE_OF = "0x70a08231"
TRANSFER = "0xa9059cbb"
"""Selectors of balanceOf(address) and transfer(address,uint256), of ERC-20."""


class EvmPayout:
    """One network; `payee` holds what we were paid, `carrier` pays the gas."""

    resend_s = RESEND_S

    def __init__(
        self,
        network: Network,
        rpc: Rpc,
        payee: LocalAccount,
        carrier: EmbeddedEvm,
        clock_s: Callable[[], float],
    ) -> None:
        self.network = network
        self.address = str(payee.address).lower()
        self._rpc = rpc
        self._payee = payee
        self._carrier = carrier
        self._clock_s = clock_s
        self._reader = EvmReader(rpc)
        self._token = network.token.lower()

    async def landed(self, order: Order) -> Landed | None:
        """Whether the withdrawal's nonce is spent, and by which transaction."""
        nonce = nonce_of(order.id)
        if not await is_authorization_used(self._rpc, self._token, self.address, nonce):
            return None
        height = quantity(await self._rpc("eth_blockNumber", []))
        since = max(0, height - LOOK_BACK_BLOCKS)
        found = await find_authorization(self._rpc, self._token, self.address, nonce, since)
        # Spent longer ago than logs are told: it is paid all the same.
        transaction = found or f"authorization {nonce}"
        return Landed(transaction=transaction, amount_micro=order.amount_micro, payer=self.address)

    async def sign(self, order: Order) -> EvmPayment:
        """Look at what we have, try a plain transfer out, and sign the authorization."""
        block = await self._rpc("eth_getBlockByNumber", ["latest", False])
        height = quantity(_field(block, "number"))
        await self._check_balance(order)
        await self._try_out(order)
        # A chain whose clock is ahead of ours decides by its own.
        now_s = max(int(self._clock_s()), quantity(_field(block, "timestamp")))
        nonce = nonce_of(order.id)
        empty = EvmPayment(
            network=self.network.id,
            asset=self._token,
            payer=self.address,
            payee=order.wallet.lower(),
            amount_micro=order.amount_micro,
            key=f"{self.address}:{nonce}",
            nonce=nonce,
            valid_after_s=0,
            valid_before_s=now_s + VALID_S,
            signature=b"",
            seen_block=max(0, height - REORG_BLOCKS),
        )
        return await asyncio.to_thread(self._signed, empty)

    def is_stale(self, signed: Signed) -> bool:
        """Whether it may end before it is carried: another one spends the same nonce."""
        assert isinstance(signed, EvmPayment)
        return self._clock_s() > signed.valid_before_s - STALE_S

    async def send(self, signed: Signed) -> bool:
        """Have it carried; the carrier simulates first, so that what cannot land costs nothing."""
        assert isinstance(signed, EvmPayment)
        deadline_s = asyncio.get_running_loop().time() + SEND_S
        outcome = await self._carrier.settle(signed, deadline_s)
        if isinstance(outcome, Refused):
            level = logging.ERROR if outcome.is_ours else logging.INFO
            log.log(level, "a withdrawal was not carried (%s): %s", outcome.code, outcome.reason)
            return False
        return True

    async def look(self, signed: Signed) -> Sight:
        """What the token says of the nonce; by which transaction, its logs."""
        return await self._reader.find(signed, None)  # type: ignore[arg-type]

    async def _check_balance(self, order: Order) -> None:
        call = {"to": self._token, "data": BALANCE_OF + _word(self.address)}
        told = await self._rpc("eth_call", [call, "latest"])
        if not isinstance(told, str) or len(told) != 66:
            raise RpcUnavailable("balanceOf: an answer that is no word")
        try:
            has_micro = int(told, 16)
        except ValueError as error:
            raise RpcUnavailable("balanceOf: an answer that is not hex") from error
        check_balance(order, has_micro)

    async def _try_out(self, order: Order) -> None:
        """The same move as a plain transfer from us: nothing that is signed leaves for this."""
        data = TRANSFER + _word(order.wallet) + order.amount_micro.to_bytes(32, "big").hex()
        call = {"from": self.address, "to": self._token, "data": data}
        try:
            await self._rpc("eth_call", [call, "latest"])
        except RpcRefused as error:
            if error.code != 3 and "revert" not in error.message.lower():
                raise
            raise Impossible(f"the chain would refuse it: {error.message[:200]}") from error

    def _signed(self, empty: EvmPayment) -> EvmPayment:
        # keccak and libsecp256k1 are loaded here, in a thread.
        from eth_typing import Hash32

        from parhelion.payments.facilitator import evm

        offer = EvmOffer(
            network=self.network.id,
            asset=self._token,
            amount_micro=empty.amount_micro,
            pay_to=empty.payee,
            max_timeout_s=VALID_S,
            name=self.network.token_name,
            version=self.network.token_version,
        )
        made = self._payee.unsafe_sign_hash(Hash32(evm.digest(empty, offer)))
        return msgspec.structs.replace(empty, signature=bytes(made.signature))


def nonce_of(withdrawal: str) -> str:
    """The nonce that all authorizations of one withdrawal share."""
    return "0x" + hashlib.sha256(f"parhelion {withdrawal}".encode()).hexdigest()


def _word(address: str) -> str:
    return address.lower().removeprefix("0x").rjust(64, "0")


def _field(block: object, name: str) -> object:
    if not isinstance(block, dict):
        raise RpcUnavailable("eth_getBlockByNumber: an answer that is no block")
    return cast("dict[str, object]", block).get(name)
