"""Play money from the faucets of this machine's own chains, which no other chain has."""

from __future__ import annotations

from parhelion.chain.rpc import RpcUnavailable
from parhelion.chain.solana import RpcCall

SOLANA = "solana:"


async def give(
    rpc: RpcCall, network: str, address: str, usdc_micro: int, *, native: int = 0
) -> str:
    """Give an address USDC, and the network's own coin; the id of the transaction of the USDC.

    `network` is a CAIP-2 id, `native` in lamports or wei. RpcRefused where there is no faucet.
    """
    usdc = str(usdc_micro)
    if network.startswith(SOLANA):
        told = await rpc("minisol_fund", [address, {"usdc": usdc, "lamports": native}])
        name = "signature"
    else:
        told = await rpc("parhelion_fund", [address, {"usdc": usdc, "wei": str(native)}])
        name = "usdc"
    if not isinstance(told, dict) or not isinstance(told.get(name), str):  # pyright: ignore[reportUnknownMemberType]
        raise RpcUnavailable("a faucet that names no transaction")
    return str(told[name])  # pyright: ignore[reportUnknownArgumentType]
