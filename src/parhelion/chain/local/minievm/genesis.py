"""The first block: the token, the batcher of reads, and the faucet that makes play money."""

from __future__ import annotations

from eth_typing import Address

from parhelion.chain import contracts
from parhelion.chain.local.minievm.limits import (
    BASE_FEE_WEI,
    BLOCK_GAS,
    FAUCET_WEI,
    FEE_VAULT,
    MULTICALL3,
    USDC,
)
from parhelion.chain.local.minievm.machine import BLANK_ROOT, Nodes, Setting, state
from parhelion.chain.local.minievm.records import Block
from parhelion.chain.local.minievm.sealing import seal


def first_block(timestamp: int, faucet: bytes) -> Block:
    """The block that everything else stands on."""
    nodes = Nodes(lambda _: None)
    setting = Setting(
        number=0,
        timestamp=timestamp,
        base_fee=BASE_FEE_WEI,
        gas_limit=BLOCK_GAS,
        coinbase=FEE_VAULT,
        parents=(),
    )
    accounts = state(nodes, BLANK_ROOT, setting)
    usdc = contracts.load("usdc")
    for address, code in (
        (USDC, usdc.runtime_code),
        (MULTICALL3, contracts.load("multicall").runtime_code),
    ):
        accounts.set_code(Address(address), code)
        # As a deployment leaves it (EIP-161).
        accounts.set_nonce(Address(address), 1)
    minter = int.from_bytes(faucet, "big")
    accounts.set_storage(Address(USDC), usdc.storage["minter"], minter)
    accounts.set_balance(Address(faucet), FAUCET_WEI)
    accounts.persist()
    return seal(None, timestamp, bytes(accounts.state_root), (), nodes.new)
