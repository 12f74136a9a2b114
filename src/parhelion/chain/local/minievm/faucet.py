# pyright: reportUnknownMemberType=false
# py-evm makes its classes at run time, so a checker cannot know their fields.
"""The faucet: a key in the data folder that gives play ether and mints play USDC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth_keys.datatypes import PrivateKey
from eth_typing import Address
from eth_utils.crypto import keccak

from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import data
from parhelion.chain.local.minievm.errors import invalid_params
from parhelion.chain.local.minievm.limits import (
    BASE_FEE_WEI,
    CHAIN_ID,
    FUND_USDC_LIMIT,
    FUND_WEI_LIMIT,
    TIP_WEI,
    USDC,
)
from parhelion.identity import read_secret, write_secret

KEY_NAME = "faucet.key"
KEY_BYTES = 32
MINT = keccak(text="mint(address,uint256)")[:4]
MINT_GAS = 120_000
GIFT_GAS = 100_000
"""Enough for a contract wallet that counts what it receives."""


def faucet_key(folder: Path, randomness: Callable[[int], bytes]) -> PrivateKey:
    """The key of this folder's faucet, made at the first start, mode 0600."""
    path = folder / KEY_NAME
    if not path.exists():
        write_secret(path, "0x" + randomness(KEY_BYTES).hex())
    return PrivateKey(bytes.fromhex(read_secret(path).removeprefix("0x")))


class Faucet:
    """Gives what costs nothing here; each gift is an ordinary transaction with a receipt."""

    def __init__(self, chain: Chain, key: PrivateKey) -> None:
        self._chain = chain
        self._key = key
        self.address = bytes(key.public_key.to_canonical_address())

    def fund(self, address: bytes, amounts: dict[str, object]) -> dict[str, str]:
        """Send base units of USDC and wei, as decimal strings; the transactions' hashes."""
        usdc = _amount(amounts.get("usdc"), "usdc", FUND_USDC_LIMIT)
        wei = _amount(amounts.get("wei"), "wei", FUND_WEI_LIMIT)
        given: dict[str, str] = {}
        if usdc:
            call = MINT + address.rjust(32, b"\0") + usdc.to_bytes(32, "big")
            given["usdc"] = self._send(USDC, 0, call, MINT_GAS)
        if wei:
            given["wei"] = self._send(address, wei, b"", GIFT_GAS)
        return given

    def _send(self, to: bytes, value: int, call: bytes, gas: int) -> str:
        unsigned = PragueTransactionBuilder.new_unsigned_dynamic_fee_transaction(
            chain_id=CHAIN_ID,
            nonce=self._chain.next_nonce(self.address),
            max_priority_fee_per_gas=TIP_WEI,
            max_fee_per_gas=BASE_FEE_WEI + TIP_WEI,
            gas=gas,
            to=Address(to),
            value=value,
            data=call,
            access_list=[],
        )
        signed = unsigned.as_signed_transaction(self._key)
        return data(self._chain.submit(signed.encode()))


def _amount(value: object, name: str, limit: int) -> int:
    if value is None:
        return 0
    # Numbers of JSON lose digits above 2^53, which is less than one cent of an ether.
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or len(value) > 30:
        raise invalid_params(f"{name}: a string of decimal digits is wanted")
    if int(value) > limit:
        raise invalid_params(f"{name}: at most {limit} at once")
    return int(value)
