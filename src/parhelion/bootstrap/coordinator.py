"""A coordinator: its rooms opened in order, its ports, its first key, perhaps a node beside it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from parhelion import api, coordinator, identity, ledger, payments, proof, store, web
from parhelion import models as catalogues
from parhelion.api.rooms import Rooms
from parhelion.bootstrap.local_node import LocalNode, NodeOrder, local_node_process
from parhelion.bootstrap.node import model_file
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Ready, SystemClock, folder
from parhelion.config import Config
from parhelion.words import ID_ENTROPY_BYTES, AssetClass, Problem, ProblemCode, mint

READY_DEADLINE_S = 180.0
"""A large model loads from a cold disk in this time; past it something is wrong."""

READY_POLL_S = 0.02
"""How often a start looks whether its node has joined; nothing else waits for it."""

INVITE_USES = 1000
INVITE_TTL_S = 7 * 24 * 3600
"""The printed join command serves a lab for a week; `parhelion run` again prints a new one."""

SWITCH_INTERVAL_S = 0.0005
"""The store's writer thread waits so long for the loop's turn to end, not 5 ms: it halves the
median of a hold when the loop is busy."""

YOUNG_OBJECTS = 20_000
"""How many new objects the cycle collector waits for; at its own 700 it looks at every running
request's objects again and again, for some 8 % of a request's CPU."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

MIGRATIONS = (
    *store.MIGRATIONS,
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *catalogues.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)


async def run_coordinator(
    config: Config,
    *,
    need: int,
    free: bool,
    local_node: bool,
    models: Sequence[str],
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, then drain; `on_ready` is called once.

    With `local_node` ready means that a prompt is served; without, that nodes may join. `free`
    sets every rate to 0, so that no key is needed. Problem when it cannot start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    data = folder(config)
    async with contextlib.AsyncExitStack() as stack:
        rooms = await open_rooms(stack, config, data, need=need, free=free, names=models)
        ready = await _open_ports(stack, rooms, data)
        if not free:
            ready = await _with_first_key(rooms, data, ready)
        if local_node:
            node = await _start_node(stack, rooms, data, ready.join or "", models)
            await _until_ready(rooms, node, stop)
            ready = msgspec.structs.replace(ready, node=node.peer)
        if not stop.is_set():
            _spare_the_collector()
            on_ready(ready)
            await stop.wait()
        await rooms.coordinator.drain(DRAIN_DEADLINE_S)


def _spare_the_collector() -> None:
    """What was made until now stays for good: the cycle collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


async def open_rooms(
    stack: contextlib.AsyncExitStack,
    config: Config,
    data: Path,
    *,
    need: int,
    free: bool,
    names: Sequence[str],
) -> Rooms:
    """Every room of a coordinator, joined; `stack` closes them in reverse."""
    clock, money = SystemClock(), config.money
    node_key = identity.NodeKey.load_or_create(data / "coordinator.key")
    books = await store.Store.open(data / "parhelion.db", MIGRATIONS, money.asset_class, clock)
    stack.push_async_callback(books.close)
    shares = ledger.Shares(
        operators_percent=money.operators_percent,
        treasury_percent=money.treasury_percent,
        infrastructure_percent=money.infrastructure_percent,
    )
    accounts = ledger.Ledger(books, clock, shares)
    keys = identity.Keys(books, clock)
    await keys.load()
    invites = identity.Invites(books, clock)
    access = identity.NodeAccess(books, clock, invites, admission(config), config.nodes.allowed)
    await access.load()
    catalogue = await catalogues.Catalogue.open(books, clock, data)
    await _stock(catalogue, config, names, free=free)
    tokeniser = catalogues.TokeniserHost(catalogue.models())
    await tokeniser.start()
    stack.push_async_callback(tokeniser.stop)
    receipts = proof.Receipts(books, clock)
    asset = pool_asset(config)
    gate = payments.Gate(keys, accounts, books, clock, os.urandom, asset=asset, receipts=receipts)
    metrics = coordinator.Metrics()
    owner = coordinator.Coordinator(
        config=config,
        clock=clock,
        entropy=os.urandom,
        key=node_key,
        catalogue=catalogue,
        tokeniser=tokeniser,
        gate=gate,
        ledger=accounts,
        receipts=receipts,
        keys=keys,
        access=access,
        metrics=metrics,
        need=need,
    )
    await owner.start()
    stack.push_async_callback(owner.stop)
    return Rooms(
        coordinator=owner,
        catalogue=catalogue,
        keys=keys,
        ledger=accounts,
        receipts=receipts,
        accounts=identity.Accounts(books, accounts, clock),
        invites=invites,
        access=access,
        store=books,
        config=config,
        clock=clock,
        entropy=os.urandom,
        metrics=metrics,
        node_key=node_key,
        admin_key=identity.admin_key(data),
    )


def pool_asset(config: Config) -> str:
    """The asset that keys of this pool spend: credits of the data folder's class."""
    money = config.money
    return "PRLX" if money.asset_class is AssetClass.MAIN else f"PRLX.{money.asset_class}"


def admission(config: Config) -> Literal["open", "invite", "list"]:
    """Who may join: on a loopback bind whoever reaches it, on any other an invite is asked."""
    if config.nodes.admit != "auto":
        return config.nodes.admit
    return "open" if config.api.host in LOOPBACK else "invite"


async def _stock(
    catalogue: catalogues.Catalogue, config: Config, names: Sequence[str], *, free: bool
) -> None:
    """Enter the named models (the packaged one when none is named) at this pool's rates."""
    money, asset = config.money, pool_asset(config)
    price = (0, 0) if free else (money.prompt_rate_micro, money.completion_rate_micro)
    for name in names or (catalogues.DEFAULT_MODEL_ID,):
        known, path = model_file(name)
        model = await catalogue.add(known, path, rates={asset: price})
        rate = next(rate for rate in catalogue.rates(model.card.id) if rate.asset == asset)
        # A folder that was a private pool and becomes a paid one (or back) gets a new version.
        if (rate.prompt_micro == rate.completion_micro == 0) != free:
            await catalogue.set_rate(
                model.card.id, asset, prompt_micro=price[0], completion_micro=price[1]
            )


async def _open_ports(stack: contextlib.AsyncExitStack, rooms: Rooms, data: Path) -> Ready:
    """Serve the API and the pages; their addresses are kept in DATA/api.json for commands."""
    config = rooms.config
    app = api.build_app(**{f.name: getattr(rooms, f.name) for f in dataclasses.fields(rooms)})
    served = await api.serve(app, config.api.host, config.api.port)
    stack.push_async_callback(served.stop)
    pages = await api.serve(web.build_pages(app), config.web.host, config.web.port)
    stack.push_async_callback(pages.stop)
    addresses = {
        "api": f"http://{_reachable(config.api.host)}:{served.port}",
        "web": f"http://{_reachable(config.web.host)}:{pages.port}",
    }
    (data / "api.json").write_bytes(msgspec.json.encode({**addresses, "pid": os.getpid()}))
    return Ready(
        coordinator=rooms.node_key.peer,
        api=addresses["api"],
        web=addresses["web"],
        join=await _join_address(rooms, served.port),
        asset=pool_asset(config),
        model=rooms.catalogue.resolve(None).card.id,
    )


def _reachable(host: str) -> str:
    """How this machine's own commands reach what is bound to `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]" if ":" in name else name


async def _join_address(rooms: Rooms, port: int) -> str:
    """What another machine says after `join -s`: address, our peer id, an invite if needed."""
    host = rooms.config.api.host
    if host in {"0.0.0.0", "::"}:
        host = _lan_address()
    kind = "ip6" if ":" in host else "ip4" if host[:1].isdigit() else "dns4"
    address = f"/{kind}/{host}/tcp/{port}/p2p/{rooms.node_key.peer}"
    if admission(rooms.config) != "invite":
        return address
    return f"{address}#{await rooms.invites.create(uses=INVITE_USES, ttl_s=INVITE_TTL_S)}"


def _lan_address() -> str:
    """This machine's address on the network that it would use; nothing is sent."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): routed, never answered
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


async def _with_first_key(rooms: Rooms, data: Path, ready: Ready) -> Ready:
    """The first key of a LOCAL folder and its grant: made once, shown at every start."""
    config = rooms.config
    if config.money.asset_class is not AssetClass.LOCAL:
        return ready
    path, asset = data / "first-key", pool_asset(config)
    if not path.exists():
        account = await rooms.accounts.create("user")
        secret, _view = await rooms.keys.create(account, asset=asset, name="first")
        grant = mint("grant", rooms.clock.now_ms(), os.urandom(ID_ENTROPY_BYTES))
        amount_micro = config.money.first_grant_micro
        await rooms.ledger.grant(account, asset, amount_micro, id=grant, reason="first key")
        # Last: a crash before this line leaves an unused account, never a key without its grant.
        identity.write_secret(path, secret)
    secret = identity.read_secret(path)
    account = rooms.keys.authenticate(secret).account
    balance = await rooms.ledger.balance(account, asset)
    return msgspec.structs.replace(ready, key=secret, balance_micro=balance.available_micro)


async def _start_node(
    stack: contextlib.AsyncExitStack,
    rooms: Rooms,
    data: Path,
    address: str,
    names: Sequence[str],
) -> LocalNode:
    config = msgspec.structs.replace(rooms.config, data=str(data / "node"))
    order = NodeOrder(config=config, address=address, models=tuple(names))
    return await stack.enter_async_context(local_node_process(order))


async def _until_ready(rooms: Rooms, node: LocalNode, stop: asyncio.Event) -> None:
    deadline_s = rooms.clock.monotonic_s() + READY_DEADLINE_S
    while node.peer is None or rooms.coordinator.health().status != "ready":
        if stop.is_set():
            return
        if node.refusal is not None:
            raise node.refusal
        if rooms.clock.monotonic_s() > deadline_s:
            raise Problem(
                ProblemCode.NO_NODE, "the local node did not join", hint="run parhelion doctor"
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), READY_POLL_S)
