"""The JSON-RPC methods: what stock clients call, answered from the chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from parhelion import __version__
from parhelion.chain.local.minievm import calls, fees, logs
from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import (
    data,
    quantity,
    to_address,
    to_bytes,
    to_fields,
    to_hash,
    to_quantity,
    word,
)
from parhelion.chain.local.minievm.errors import (
    METHOD_NOT_FOUND,
    RpcError,
    invalid_params,
    refused,
)
from parhelion.chain.local.minievm.faucet import Faucet
from parhelion.chain.local.minievm.limits import BASE_FEE_WEI, CHAIN_ID, TIP_WEI
from parhelion.chain.local.minievm.records import Header
from parhelion.chain.local.minievm.signed import read
from parhelion.chain.local.minievm.views import (
    block_view,
    receipt_view,
    transaction_view,
)

NUMBER_LIMIT = 2**63
HEAD_TAGS = ("latest", "pending", "safe", "finalized")
"""One sequencer and no other chain below it: the last block is as final as any."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method with how many arguments it needs and takes."""

    run: Callable[..., Any]
    needs: int
    takes: int


class Methods:
    """Every method by its name."""

    def __init__(self, chain: Chain, faucet: Faucet) -> None:
        self._chain = chain
        self._faucet = faucet
        self._table: dict[str, Method] = {
            "web3_clientVersion": Method(lambda: f"minievm/{__version__}/LOCAL", 0, 0),
            "net_version": Method(lambda: str(CHAIN_ID), 0, 0),
            "net_listening": Method(lambda: True, 0, 0),
            "eth_chainId": Method(lambda: quantity(CHAIN_ID), 0, 0),
            "eth_syncing": Method(lambda: False, 0, 0),
            "eth_accounts": Method(lambda: [], 0, 0),
            "eth_blockNumber": Method(lambda: quantity(chain.head.number), 0, 0),
            "eth_gasPrice": Method(lambda: quantity(BASE_FEE_WEI + TIP_WEI), 0, 0),
            "eth_maxPriorityFeePerGas": Method(lambda: quantity(TIP_WEI), 0, 0),
            "eth_feeHistory": Method(self._fee_history, 2, 3),
            "eth_getBlockByNumber": Method(self._block_by_number, 1, 2),
            "eth_getBlockByHash": Method(self._block_by_hash, 1, 2),
            "eth_getBlockReceipts": Method(self._block_receipts, 1, 1),
            "eth_getBalance": Method(self._balance, 1, 2),
            "eth_getTransactionCount": Method(self._transaction_count, 1, 2),
            "eth_getCode": Method(self._code, 1, 2),
            "eth_getStorageAt": Method(self._storage, 2, 3),
            "eth_call": Method(self._call, 1, 4),
            "eth_estimateGas": Method(self._estimate, 1, 3),
            "eth_sendRawTransaction": Method(self._send, 1, 1),
            "eth_getTransactionByHash": Method(self._transaction, 1, 1),
            "eth_getTransactionReceipt": Method(self._receipt, 1, 1),
            "eth_getLogs": Method(self._logs, 1, 1),
            "parhelion_fund": Method(self._fund, 2, 2),
        }

    def names(self) -> list[str]:
        """What there is to call."""
        return sorted(self._table)

    def answer(self, name: str, arguments: list[object]) -> Any:
        """The result of one call; RpcError where there is none."""
        method = self._table.get(name)
        if method is None:
            shown = name[:80]
            raise RpcError(METHOD_NOT_FOUND, f"the method {shown} does not exist/is not available")
        if len(arguments) < method.needs:
            raise invalid_params(f"missing value for required argument {len(arguments)}")
        if len(arguments) > method.takes:
            raise invalid_params(f"too many arguments, want at most {method.takes}")
        return method.run(*arguments)

    def _block_by_number(self, tag: object, whole: object = False) -> Any:
        if tag in HEAD_TAGS:
            self._chain.catch_up()
        header = self._find(tag)
        return None if header is None else self._block(header, whole)

    def _block_by_hash(self, block_hash: object, whole: object = False) -> Any:
        header = self._chain.header_of(to_hash(block_hash))
        return None if header is None else self._block(header, whole)

    def _block(self, header: Header, whole: object) -> Any:
        if not isinstance(whole, bool):
            raise invalid_params("invalid argument 1: a boolean is wanted")
        found = self._chain.file.transactions(header.number)
        size = len(header.encoded) + sum(len(mined.raw) for mined in found)
        if not whole:
            return block_view(header, [data(mined.hash) for mined in found], size)
        shown = [transaction_view(read(mined.raw), mined, header.hash) for mined in found]
        return block_view(header, shown, size)

    def _block_receipts(self, tag: object) -> Any:
        header = self._find(tag)
        if header is None:
            return None
        return [
            receipt_view(read(mined.raw), mined, header.hash, self._chain.file.logs_of(mined))
            for mined in self._chain.file.transactions(header.number)
        ]

    def _balance(self, address: object, tag: object = "latest") -> str:
        return quantity(self._chain.account(self._at(tag), to_address(address)).balance)

    def _transaction_count(self, address: object, tag: object = "latest") -> str:
        if tag == "pending":
            return quantity(self._chain.next_nonce(to_address(address)))
        return quantity(self._chain.account(self._at(tag), to_address(address)).nonce)

    def _code(self, address: object, tag: object = "latest") -> str:
        return data(self._chain.code(self._at(tag), to_address(address)))

    def _storage(self, address: object, slot: object, tag: object = "latest") -> str:
        return word(self._chain.storage(self._at(tag), to_address(address), to_quantity(slot)))

    def _call(
        self, call: object, tag: object = "latest", state: object = None, block: object = None
    ) -> str:
        _no_overrides(state, block)
        return data(calls.answer(self._chain, self._at(tag), calls.to_call(call)))

    def _estimate(self, call: object, tag: object = "latest", state: object = None) -> str:
        _no_overrides(state)
        return quantity(calls.estimate(self._chain, self._at(tag), calls.to_call(call)))

    def _send(self, raw: object) -> str:
        return data(self._chain.submit(to_bytes(raw)))

    def _transaction(self, tx_hash: object) -> Any:
        key = to_hash(tx_hash)
        waiting = self._chain.waiting.get(key)
        if waiting is not None:
            return transaction_view(waiting, None, None)
        mined = self._chain.file.transaction(key)
        if mined is None:
            return None
        return transaction_view(read(mined.raw), mined, self._hash_of(mined.block))

    def _receipt(self, tx_hash: object) -> Any:
        mined = self._chain.file.transaction(to_hash(tx_hash))
        if mined is None:
            return None
        events = self._chain.file.logs_of(mined)
        return receipt_view(read(mined.raw), mined, self._hash_of(mined.block), events)

    def _logs(self, wanted: object) -> Any:
        return logs.find(self._chain, wanted, self._number)

    def _fee_history(self, count: object, newest: object, percentiles: object = None) -> Any:
        return fees.history(self._chain, count, self._at(newest), percentiles)

    def _fund(self, address: object, amounts: object) -> Any:
        wanted = to_fields(amounts, ("usdc", "wei"), "amounts")
        return self._faucet.fund(to_address(address), wanted)

    def _hash_of(self, number: int) -> bytes:
        header = self._chain.header(number)
        if header is None:
            raise RuntimeError(f"a transaction's block {number} is not in the file")
        return header.hash

    def _at(self, tag: object) -> Header:
        header = self._find(tag)
        if header is None:
            raise refused("header not found")
        return header

    def _find(self, tag: object) -> Header | None:
        if isinstance(tag, dict):
            fields = to_fields(
                cast("object", tag), ("blockHash", "blockNumber", "requireCanonical"), "block"
            )
            if fields.get("blockHash") is not None:
                return self._chain.header_of(to_hash(fields["blockHash"]))
            tag = fields.get("blockNumber")
        number = self._number(tag)
        head = self._chain.head
        return head if number == head.number else self._chain.header(number)

    def _number(self, tag: object) -> int:
        if tag is None or tag in HEAD_TAGS:
            return self._chain.head.number
        return 0 if tag == "earliest" else to_quantity(tag, NUMBER_LIMIT)


def _no_overrides(*given: object) -> None:
    if any(override for override in given):
        raise invalid_params("state and block overrides are not offered by minievm")
