"""What withdrawals need of a chain: sign, send, and look; each family has its own file.

`sign` tries everything out before there is a signature, so that what cannot be sent is known while
it can still be given back at once. What is signed is durable before `send` sees it.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from parhelion.payments.facilitator.outcomes import EvmPayment
from parhelion.payments.x402.networks import Network
from parhelion.payments.x402.outside import Landed, Sight
from parhelion.words import Record


class Order(Record, frozen=True, kw_only=True):
    """So much to a wallet, under the withdrawal's id.

    `committed_micro` of what lies at our address is on its way to others; `may_open`: whether the
    wallet's token account may be opened at our cost.
    """

    id: str
    wallet: str
    amount_micro: int
    committed_micro: int = 0
    may_open: bool = False


class SolanaTransfer(Record, frozen=True, kw_only=True, tag="solana_transfer"):
    """A transaction with all its signatures, and the last block height that may take it."""

    transaction: str
    wire: bytes
    wallet: str
    last_valid_block_height: int
    opens_account: bool


Signed: TypeAlias = SolanaTransfer | EvmPayment
"""What moves the money once somebody sends it: on EVM chains an EIP-3009 authorization of ours."""

decode_signed = msgspec.json.Decoder(Signed).decode
encode_signed = msgspec.json.Encoder().encode


class Impossible(Exception):
    """This cannot be sent, and nothing of it was signed; the text is for the account's owner."""


class NotYet(Exception):
    """This cannot be signed for now, and can be soon."""


def check_balance(order: Order, has_micro: int) -> None:
    """Hold an order against what lies at our address; Impossible or NotYet. Pure."""
    if has_micro < order.amount_micro:
        raise Impossible("too little lies at the seller's address on the chain now")
    if has_micro - order.committed_micro < order.amount_micro:
        # What is committed may have left already, or still be there.
        raise NotYet("what is signed away comes first")


class Payout(Protocol):
    """One network that we send back on."""

    @property
    def network(self) -> Network:
        """Which one."""
        ...

    @property
    def address(self) -> str:
        """Where what we were paid lies, as the ledger's mirror account names it."""
        ...

    @property
    def resend_s(self) -> float:
        """How long after a broadcast it is worth another one."""
        ...

    async def landed(self, order: Order) -> Landed | None:
        """Whether the chain has a transfer of this order, whatever we know of it.

        Asked before each signature: the last net under what is stored here. Raises where the
        chain does not answer.
        """
        ...

    async def sign(self, order: Order) -> Signed:
        """A transfer of this order, signed and not sent; Impossible, or any other error: later."""
        ...

    def is_stale(self, signed: Signed) -> bool:
        """Whether it is better signed again than sent: only where the chain takes one of both."""
        ...

    async def send(self, signed: Signed) -> bool:
        """Give it to a node of the chain; False where it is sure that none took it. Idempotent."""
        ...

    async def look(self, signed: Signed) -> Sight:
        """What the chain has of it; Expired and FailedOnChain only when it can land no more."""
        ...
