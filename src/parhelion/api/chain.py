"""GET /v1/chain: the networks that are paid on, and what is on them, read from the chain itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.allowance import Allowances
from parhelion.api.chain_page import page
from parhelion.api.chain_shapes import (
    NetworkBody,
    NetworkList,
    shown,
    told,
)
from parhelion.api.page import CONTENT_TYPE, HEADERS
from parhelion.api.parse import invalid
from parhelion.api.rooms import Rooms, path_field, query_of, require_admin
from parhelion.api.wire import NO_STORE, Reply, json_reply, visit_of
from parhelion.config import LOOPBACK
from parhelion.identity import site_of
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.solana import RpcCall
    from parhelion.chain.transaction import Transaction
    from parhelion.payments.x402 import Network, Payee

Look: TypeAlias = "Callable[[Network, RpcCall, str], Awaitable[Transaction | None]]"
"""Reads a transaction of a network; None where the chain has none of that id."""

LOOKUPS_LIMIT = 8
"""At once: each is three calls to a node that may count them, and anyone may ask."""

LOOKUPS_AT_ONCE = 60.0
LOOKUPS_PER_S = 2.0
"""Of one address: a person looks at some, a buyer's program at each of its payments once."""

LOOKUP_WAIT_S = 5.0
"""A person waits for the page; a node that takes longer is away."""

RETRY_S = 2

NO_NETWORK = "no network is paid on here: [[x402.networks]] in the settings"

SOLANA_ID = "^[1-9A-HJ-NP-Za-km-z]{64,88}$"
"""A signature, 64 bytes, in base58."""

EVM_ID = "^0x[0-9a-fA-F]{64}$"

ID_PATTERN = f"{SOLANA_ID}|{EVM_ID}"


def handlers(rooms: Rooms, look: Look | None = None) -> list[HTTPRouteHandler]:
    """The routes of the chains; anyone may read what anyone could read there."""
    slots = asyncio.Semaphore(LOOKUPS_LIMIT)
    lookups = Allowances(LOOKUPS_PER_S, LOOKUPS_AT_ONCE)
    look_up = look or look_at_chain

    @get("/v1/chain", name="chain.list")
    async def networks(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        is_here = visit_of(scope).known_address in LOOPBACK
        return json_reply(
            NetworkList(data=tuple(_network(each, is_here) for each in _payees(rooms)))
        )

    @get("/v1/chain/{network:str}/tx/{id:str}", name="chain.transaction")
    async def transaction(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        payee = _payee(_payees(rooms), path_field(scope, "network"))
        id = checked_id(payee.network, path_field(scope, "id"))
        if not lookups.take(site_of(visit_of(scope).address), rooms.clock.monotonic_s()):
            raise _away(
                "too many transactions were looked up from your address", ProblemCode.RATE_LIMITED
            )
        if slots.locked():
            raise _away("too many transactions are being looked up", ProblemCode.OVERLOADED)
        async with slots:
            found = await look_up(payee.network, _rpc(rooms, payee), id)
        if found is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"{payee.network.names[-1]} has no transaction {id[:16]}…",
                hint="what was just sent may not be there yet",
            )
        body = shown(payee.network, found)
        if b"text/html" in visit_of(scope).fields.get(b"accept", b"").lower():
            return Reply(200, page(body), [*HEADERS, NO_STORE], CONTENT_TYPE)
        return json_reply(body)

    @get("/v1/x402/totals", name="x402.totals")
    async def totals(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        require_admin(scope, rooms)
        if rooms.shop is None:
            raise _unpaid()
        return json_reply(told(await rooms.shop.tally.read()))

    return [networks, transaction, totals]


def checked_id(network: Network, id: str) -> str:
    """A transaction's id in the one way to write it; Problem where it can be none."""
    is_solana = network.id.startswith("solana:")
    if re.fullmatch(SOLANA_ID if is_solana else EVM_ID, id) is None:
        looks = "64 bytes in base58" if is_solana else "0x and 64 hex digits"
        raise invalid("id", f"a transaction there is {looks}.")
    return id if is_solana else id.lower()


def _payees(rooms: Rooms) -> Sequence[Payee]:
    return () if rooms.shop is None else rooms.shop.payees


def _payee(payees: Sequence[Payee], id: str) -> Payee:
    for payee in payees:
        if payee.network.id == id:
            return payee
    ids = ", ".join(payee.network.id for payee in payees)
    hint = f"the networks here are {ids}" if ids else NO_NETWORK
    raise Problem(ProblemCode.NOT_FOUND, f"no network {id[:64]!r}", hint=hint, param="network")


def _unpaid() -> Problem:
    return Problem(ProblemCode.NOT_FOUND, "Nothing is paid by x402 here.", hint=NO_NETWORK)


def _rpc(rooms: Rooms, payee: Payee) -> RpcCall:
    assert rooms.shop is not None
    return rooms.shop.rpcs[payee.network.id]


def _network(payee: Payee, is_here: bool) -> NetworkBody:
    network = payee.network
    is_ours = network.is_local and urlsplit(payee.rpc_url).hostname in LOOPBACK
    return NetworkBody(
        network=network.id,
        name=network.names[-1],
        asset=network.asset,
        token=network.token,
        decimals=network.decimals,
        pay_to=payee.pay_to,
        local=network.is_local,
        label="LOCAL" if network.is_local else None,
        rpc=_rpc_told(payee, is_ours and is_here),
    )


def _rpc_told(payee: Payee, is_own: bool) -> str | None:
    """The node that a wallet may add the network with.

    Never what is set for a public network: its URL may have the operator's key in it.
    """
    if payee.network.is_local:
        return payee.rpc_url if is_own else None
    return payee.network.rpc_url


async def look_at_chain(network: Network, rpc: RpcCall, id: str) -> Transaction | None:
    """The transaction as its chain tells it; Problem where the chain is away or unclear."""
    # Loaded here: a coordinator that is not paid on a chain never comes this way.
    from parhelion.chain.evm.explore import explore as explore_evm
    from parhelion.chain.rpc import RpcRefused, RpcUnavailable
    from parhelion.chain.solana.explore import explore as explore_solana
    from parhelion.chain.transaction import Misshapen

    explore = explore_solana if network.id.startswith("solana:") else explore_evm
    try:
        async with asyncio.timeout(LOOKUP_WAIT_S):
            return await explore(rpc, id)
    except (RpcUnavailable, RpcRefused, Misshapen, TimeoutError) as error:
        raise _away(
            f"{network.names[-1]} cannot be read now", ProblemCode.PAYMENT_UNAVAILABLE
        ) from error


def _away(what: str, code: ProblemCode) -> Problem:
    return Problem(code, what, hint="ask again after Retry-After", retry_after_s=RETRY_S)
