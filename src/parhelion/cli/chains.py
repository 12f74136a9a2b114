"""Which chains the wallet's commands ask: those of the running `up`, and those named by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from parhelion.cli.options import WrongUsage
from parhelion.config import LOOPBACK
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.solana import RpcCall
    from parhelion.payments.x402.networks import Network

T = TypeVar("T")

CHAINS_LIMIT = 8


class Chain(NamedTuple):
    """A network, and where it is asked."""

    network: Network
    rpc_url: str


def local_chains(folder: Path) -> tuple[Chain, ...]:
    """The chains of this machine's running `up`, as it wrote them down; none where it has none."""
    from parhelion.payments.x402.networks import as_local, known

    try:
        written = json.loads((folder / "api.json").read_text("utf-8"))
        rows = [row for row in written.get("chains", ())[:CHAINS_LIMIT] if row["local"] is True]
        return tuple(
            Chain(as_local(known(str(row["network"]))), str(row["rpc"]))
            for row in rows
            # Written by whoever may write the data folder; play money is only ever here.
            if urlsplit(str(row["rpc"])).hostname in LOOPBACK
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def named_chains(said: Sequence[str]) -> tuple[Chain, ...]:
    """What `--rpc NETWORK=URL` names."""
    from parhelion.payments.x402.networks import known

    found: list[Chain] = []
    for text in said:
        name, mark, url = text.partition("=")
        if not mark or urlsplit(url).scheme not in {"http", "https"}:
            raise WrongUsage(f"--rpc {text!r} names no chain", "write it NETWORK=URL")
        found.append(Chain(known(name), url))
    return tuple(found)


def chain_named(name: str, local: Sequence[Chain], named: Sequence[Chain]) -> Chain:
    """The chain that a command means: one named with --rpc first, else one of `up`'s."""
    from parhelion.payments.x402.networks import known

    wanted = known(name)
    for chain in (*named, *local):
        if chain.network.id == wanted.id:
            return chain
    raise Problem(
        ProblemCode.CONFIG_INVALID,
        f"no chain to ask about {wanted.names[-1]}",
        hint=f"start `parhelion up`, or name one: --rpc {wanted.names[-1]}={wanted.rpc_url}",
    )


def ask(url: str, work: Callable[[RpcCall], Awaitable[T]]) -> T:
    """What `work` finds out from a chain's RPC; Problem where it does not answer."""
    from parhelion.chain.evm import ReadFailed
    from parhelion.chain.rpc import RpcRefused, RpcUnavailable

    try:
        return asyncio.run(_asked(url, work))
    except (RpcRefused, RpcUnavailable, ReadFailed) as error:
        raise Problem(
            ProblemCode.PAYMENT_UNAVAILABLE,
            f"the chain at {_place(url)} gave no answer that can be used: {error}",
            hint="is its address right, and does it run? --rpc NETWORK=URL names another",
        ) from error


async def _asked(url: str, work: Callable[[RpcCall], Awaitable[T]]) -> T:
    import aiohttp

    from parhelion.chain.rpc import JsonRpc

    # A proxy set for the outside world must not see what is asked of this machine's own chains.
    is_near = urlsplit(url).hostname in LOOPBACK
    async with aiohttp.ClientSession(trust_env=not is_near) as session:
        return await work(JsonRpc(session, url))


def _place(url: str) -> str:
    """An RPC's host: what follows may be a provider's key."""
    return urlsplit(url).netloc.rpartition("@")[2]
