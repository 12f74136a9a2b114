"""The parts of one chain joined: file, chain, faucet, methods, server and, where wanted, miner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from eth_utils.address import to_checksum_address

from parhelion.chain.local.minievm import CAIP2, CHAIN_ID, USDC_ADDRESS
from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import data
from parhelion.chain.local.minievm.faucet import Faucet, faucet_key
from parhelion.chain.local.minievm.limits import MULTICALL3
from parhelion.chain.local.minievm.methods import Methods
from parhelion.chain.local.minievm.server import Server
from parhelion.chain.local.minievm.store import ChainFile


class Miner:
    """Makes a block every so often while something waits; an idle chain makes none."""

    def __init__(self, chain: Chain, block_s: float) -> None:
        self._chain = chain
        self._block_s = block_s

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._block_s)
            self._chain.mine()


class Node:
    """A chain that is ready to be served."""

    def __init__(self, file: ChainFile, chain: Chain, faucet: Faucet, server: Server) -> None:
        self._file = file
        self._chain = chain
        self._faucet = faucet
        self.app: web.Application = server.app()
        self.miner: Miner | None = None

    def card(self, rpc: str) -> dict[str, Any]:
        """What a client needs to know of this chain."""
        genesis = self._chain.header(0)
        return {
            "rpc": rpc,
            "caip2": CAIP2,
            "chain_id": CHAIN_ID,
            "local": True,
            "usdc": USDC_ADDRESS,
            "multicall3": to_checksum_address(MULTICALL3),
            "faucet": to_checksum_address(self._faucet.address),
            "genesis": data(b"" if genesis is None else genesis.hash),
            "block": self._chain.head.number,
        }

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def open_node(
    folder: Path,
    block_ms: int,
    clock_s: Callable[[], float],
    monotonic_s: Callable[[], float],
    randomness: Callable[[int], bytes],
) -> Node:
    """Open the folder's chain, or begin one."""
    file = ChainFile(folder)
    try:
        key = faucet_key(folder, randomness)
        address = bytes(key.public_key.to_canonical_address())
        chain = Chain(file, address, clock_s, at_once=block_ms == 0)
        faucet = Faucet(chain, key)
        node = Node(file, chain, faucet, Server(Methods(chain, faucet), monotonic_s))
        if block_ms:
            node.miner = Miner(chain, block_ms / 1000)
        # What waited when the chain was last served with --block-ms does not wait any more.
        while not block_ms and chain.mine():
            pass
    except BaseException:
        file.close()
        raise
    return node
