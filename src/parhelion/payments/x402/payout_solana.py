"""Withdrawals on Solana: one TransferChecked a transaction, found again by the withdrawal's id.

A transaction lands once, but another one of the same withdrawal would land as well. So a new one is
signed only where the old one's last block is below the last final block, and a node that stands at
that block or past it has no trace of it; and where no transaction of this withdrawal's own
reference address is on the chain.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall, Standing, associated_account, read_payment
from parhelion.payments.facilitator.offers import TOKEN_PROGRAM
from parhelion.payments.facilitator.solana_truth import OUT_OF_FUNDS
from parhelion.payments.x402.networks import Network
from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Sight, Unknown
from parhelion.payments.x402.payouts import (
    Impossible,
    Order,
    Signed,
    SolanaTransfer,
    check_balance,
)

if TYPE_CHECKING:
    from solders.keypair import Keypair

    from parhelion.chain.solana.transfer import Transfer

log = logging.getLogger("parhelion.payments")

T = TypeVar("T")

RESEND_S = 2.0
"""The same bytes again are the same transaction; a leader forgets what it could not take."""

NEVER_SENT = frozenset({-32002, -32003, -32602})
"""Preflight and signature failures and bad parameters: an honest node passed nothing on."""

HISTORY_LIMIT = 20
"""Transactions that name a withdrawal's reference: ours are a handful, strangers may add some."""


class _Context(msgspec.Struct):
    slot: int


class _Amount(msgspec.Struct):
    amount: str


class _Info(msgspec.Struct, rename="camel"):
    mint: str
    owner: str
    token_amount: _Amount


class _Parsed(msgspec.Struct):
    info: _Info


class _Data(msgspec.Struct):
    parsed: _Parsed


class _Account(msgspec.Struct):
    data: _Data


class _Accounts(msgspec.Struct):
    value: list[_Account | None]


class _Latest(msgspec.Struct, rename="camel"):
    blockhash: str
    last_valid_block_height: int


class _Blockhash(msgspec.Struct):
    value: _Latest


class _Epoch(msgspec.Struct, rename="camel"):
    absolute_slot: int
    block_height: int


class _Statuses(msgspec.Struct):
    context: _Context
    value: list[Any]


class _Outcome(msgspec.Struct):
    err: Any


class _Simulated(msgspec.Struct):
    value: _Outcome


class _Entry(msgspec.Struct):
    signature: str
    err: Any


class SolanaPayout:
    """One network; `payee` holds what we were paid, `fee_payer` the lamports (both may be one)."""

    resend_s = RESEND_S

    def __init__(self, network: Network, rpc: RpcCall, payee: Keypair, fee_payer: Keypair) -> None:
        self.network = network
        self.address = str(payee.pubkey())
        self._rpc = rpc
        self._payee = payee
        self._fee_payer = fee_payer
        self._program = network.token_program or TOKEN_PROGRAM

    async def landed(self, order: Order) -> Landed | None:
        """The transfer among the transactions that name this withdrawal's reference."""
        from parhelion.chain.solana.transfer import reference_of

        asked = {"limit": HISTORY_LIMIT, "commitment": "confirmed"}
        told = await self._rpc("getSignaturesForAddress", [reference_of(order.id), asked])
        for entry in _in_shape(told, list[_Entry]):
            # Whoever read the reference on the chain may name it too; only our own owner signs.
            if entry.err is None and (found := await self._is_ours(order, entry.signature)):
                return found
        return None

    async def sign(self, order: Order) -> SolanaTransfer:
        """Look at both accounts, try the transfer out unsigned, and sign it."""
        opens = await self._opens_account(order)
        asked: list[Any] = [{"commitment": "confirmed"}]
        latest = _in_shape(await self._rpc("getLatestBlockhash", asked), _Blockhash).value
        transfer, empty = await asyncio.to_thread(self._transfer, order, latest.blockhash, opens)
        await self._try_out(empty)
        transaction, wire = await asyncio.to_thread(self._signed, transfer)
        return SolanaTransfer(
            transaction=transaction,
            wire=wire,
            wallet=order.wallet,
            last_valid_block_height=latest.last_valid_block_height,
            opens_account=opens,
        )

    def is_stale(self, signed: Signed) -> bool:
        """Never: a second transaction beside the first would pay twice."""
        return False

    async def send(self, signed: Signed) -> bool:
        """Broadcast the stored bytes."""
        assert isinstance(signed, SolanaTransfer)
        how = {"encoding": "base64", "preflightCommitment": "processed"}
        try:
            await self._rpc("sendTransaction", [_base64(signed.wire), how])
        except RpcUnavailable as error:
            return error.left_us
        except RpcRefused as error:
            if _is_there(error.data):
                return True
            log.info("a node refused %s: %s", signed.transaction[:16], error)
            return error.code not in NEVER_SENT
        return True

    async def look(self, signed: Signed) -> Sight:
        """What became of the transaction; an end other than landed only past its last block."""
        assert isinstance(signed, SolanaTransfer)
        final = [{"commitment": "finalized"}]
        epoch = _in_shape(await self._rpc("getEpochInfo", final), _Epoch)
        is_over = epoch.block_height > signed.last_valid_block_height
        reading = await read_payment(
            self._rpc,
            signed.transaction,
            payee=signed.wallet,
            mint=self.network.token,
            token_program=self._program,
        )
        if reading.standing is Standing.LANDED:
            return Landed(
                transaction=signed.transaction,
                amount_micro=reading.credited,
                payer=self.address,
                slot=reading.slot,
            )
        if not is_over:
            return Unknown()
        if reading.standing is Standing.FAILED:
            reason = f"the chain says {str(reading.error)[:200]}"
            return FailedOnChain(transaction=signed.transaction, reason=reason)
        if reading.standing is Standing.UNKNOWN and await self._is_gone(signed, epoch):
            return Expired()
        return Unknown()

    async def _is_gone(self, signed: SolanaTransfer, epoch: _Epoch) -> bool:
        """No trace of it, by a node that has seen the last block that could have taken it."""
        asked = [[signed.transaction], {"searchTransactionHistory": True}]
        told = _in_shape(await self._rpc("getSignatureStatuses", asked), _Statuses)
        return told.context.slot >= epoch.absolute_slot and told.value == [None]

    async def _opens_account(self, order: Order) -> bool:
        """Whether the wallet's account is missing; Impossible where it cannot get the amount."""
        wallets = (self.address, order.wallet)
        accounts = await asyncio.to_thread(
            lambda: [associated_account(w, self.network.token, self._program) for w in wallets]
        )
        how = {"encoding": "jsonParsed", "commitment": "confirmed"}
        told = await self._rpc("getMultipleAccounts", [accounts, how])
        ours, theirs = _in_shape(told, _Accounts).value
        has_micro = 0 if ours is None else int(ours.data.parsed.info.token_amount.amount)
        check_balance(order, has_micro)
        if theirs is None:
            if order.may_open:
                return True
            raise Impossible(
                "the wallet has no USDC account any more, and we open no more of them: "
                "open one with any wallet program"
            )
        if theirs.data.parsed.info.owner != order.wallet:
            raise Impossible("the wallet's USDC account has been given to another owner")
        return False

    async def _try_out(self, empty: bytes) -> None:
        how = {"encoding": "base64", "sigVerify": False, "commitment": "confirmed"}
        told = await self._rpc("simulateTransaction", [_base64(empty), how])
        error = _in_shape(told, _Simulated).value.err
        if error is None:
            return
        if error == "BlockhashNotFound":
            raise RpcUnavailable("the node does not know the blockhash that it gave us")
        if isinstance(error, str) and error in OUT_OF_FUNDS:
            log.error("the fee payer %s is out of lamports", self._fee_payer.pubkey())
            raise Impossible("the seller cannot pay the network's fees now")
        raise Impossible(f"the chain would refuse it: {str(error)[:200]}")

    def _transfer(self, order: Order, blockhash: str, opens: bool) -> tuple[Transfer, bytes]:
        # solders is loaded here, in a thread.
        from parhelion.chain.solana import transfer

        made = transfer.Transfer(
            mint=self.network.token,
            token_program=self._program,
            decimals=self.network.decimals,
            amount_micro=order.amount_micro,
            to=order.wallet,
            memo=order.id,
            opens_account=opens,
            blockhash=blockhash,
        )
        return made, transfer.unsigned(made, self._payee.pubkey(), self._fee_payer.pubkey())

    def _signed(self, made: Transfer) -> tuple[str, bytes]:
        from parhelion.chain.solana import transfer

        return transfer.signed(made, self._payee, self._fee_payer)

    async def _is_ours(self, order: Order, transaction: str) -> Landed | None:
        reading = await read_payment(
            self._rpc,
            transaction,
            payee=order.wallet,
            mint=self.network.token,
            token_program=self._program,
        )
        # Only our key moves tokens out of our account.
        is_ours = reading.payer == self.address and reading.credited >= order.amount_micro
        if reading.standing is not Standing.LANDED or not is_ours:
            return None
        return Landed(
            transaction=transaction,
            amount_micro=reading.credited,
            payer=self.address,
            slot=reading.slot,
        )


def _is_there(data: Any) -> bool:
    """Whether a preflight failed because a broadcast before this one has landed."""
    try:
        return msgspec.convert(data, _Outcome).err == "AlreadyProcessed"
    except msgspec.ValidationError:
        return False


def _in_shape(answer: Any, shape: type[T]) -> T:
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise RpcUnavailable(f"an answer that is not in Solana's shape: {error}") from error


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
