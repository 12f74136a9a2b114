"""A coordinator: its rooms opened in order, its ports, its first key, perhaps a node beside it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from parhelion import api, coordinator, identity, ledger, payments, proof, store, web
from parhelion import models as catalogues
from parhelion.api.rooms import Rooms
from parhelion.bootstrap.first_key import first_key
from parhelion.bootstrap.local_node import LocalNode
from parhelion.bootstrap.ports import DATABASE, Ports, listen
from parhelion.bootstrap.reach import Reach
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Pool, Randomness, Ready, SystemClock, folder
from parhelion.bootstrap.stock import File, stock
from parhelion.config import LOOPBACK, Config, MoneyConfig, pool_asset
from parhelion.link import announced
from parhelion.words import AssetClass, Problem, ProblemCode

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

YOUNG_OBJECTS = 5_000
"""How many new objects the cycle collector waits for; at its own 700 it looks at every running
request's objects again and again, for some 8 % of a request's CPU."""

MIGRATIONS = (
    *store.MIGRATIONS,
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *catalogues.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)


async def serve_pool(
    config: Config,
    files: Sequence[File],
    ports: Ports,
    *,
    need: int,
    free: bool,
    node: LocalNode | None,
    fallback: LocalNode | None,
    fallback_peer: str | None,
    own: Sequence[str],
    certificate: identity.Certificate | None,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    on_pool: Callable[[Pool], None] | None = None,
) -> None:
    """Serve the models of `files` until `stop` is set, then drain; see `pool.run_coordinator`."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    check_payments(config)
    data = folder(config)
    pem = None
    if certificate is not None:
        config, pem = _with_names(config, certificate), certificate.pem
    async with contextlib.AsyncExitStack() as stack:
        rooms = await open_rooms(
            stack,
            config,
            data,
            need=need,
            free=free,
            files=files,
            fallback=fallback_peer,
            own=own,
        )
        ready = await _open_ports(stack, rooms, ports, data, certificate)
        # Before the ports close, so that nodes are told; after the local node has left.
        stack.push_async_callback(rooms.coordinator.stop)
        if not free:
            ready = await _with_first_key(rooms, data, ready)
        if fallback is not None:
            stack.push_async_callback(fallback.stop)
            fallback.send_to(ready.join or "", pem)
        if node is not None:
            stack.push_async_callback(node.stop)
            node.send_to(ready.join or "", pem)
            await _until_ready(rooms, node, stop)
            ready = msgspec.structs.replace(ready, node=node.peer)
        if not stop.is_set():
            _spare_the_collector()
            on_ready(ready)
            if on_pool is not None:
                _tell_changes(rooms.coordinator, need, on_pool)
            await stop.wait()
        await rooms.coordinator.drain(DRAIN_DEADLINE_S)


def check_payments(config: Config) -> None:
    """Problem for a network to be paid on: no route takes a payment yet, and silence would lie."""
    if config.x402.networks:
        names = ", ".join(network.id for network in config.x402.networks)
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"payments by x402 ({names}) are not served by this version yet",
            hint="take [[x402.networks]] out, or unset NEXT_PUBLIC_RECEIVER_ADDRESS",
        )


def _with_names(config: Config, certificate: identity.Certificate) -> Config:
    """The names in the served certificate are ours: a rebound name has no certificate."""
    hosts = (*config.api.allowed_hosts, *certificate.names)
    return msgspec.structs.replace(
        config, api=msgspec.structs.replace(config.api, allowed_hosts=hosts)
    )


def _tell_changes(
    owner: coordinator.Coordinator, need: int, on_pool: Callable[[Pool], None]
) -> None:
    """Call `on_pool` now if a node is there, and whenever who is ready has changed."""
    told = Pool(need=need, ready=(), complete=False)

    def look() -> None:
        nonlocal told
        if owner.health().status == "draining":
            return  # Whoever stopped it was told so, and that nodes leave then is no news.
        views = [view for view in owner.nodes() if view.state in ("ready", "busy")]
        names = tuple(sorted(view.name for view in views))
        now = Pool(need=need, ready=names, complete=owner.health().status == "ready")
        if now != told:
            told = now
            on_pool(now)

    owner.watch_nodes(look)
    look()


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
    files: Sequence[File],
    fallback: str | None = None,
    own: Sequence[str] = (),
) -> Rooms:
    """Every room of a coordinator, joined; `stack` closes them in reverse."""
    clock, entropy, money = SystemClock(), Randomness(), config.money
    node_key = identity.NodeKey.load_or_create(data / "coordinator.key")
    books = await store.Store.open(data / DATABASE, MIGRATIONS, money.asset_class, clock)
    stack.push_async_callback(books.close)
    accounts = ledger.Ledger(books, clock, _shares(money))
    keys = identity.Keys(books, clock)
    await keys.load()
    invites = identity.Invites(books, clock)
    access = identity.NodeAccess(books, clock, invites, admission(config), config.nodes.allowed)
    await access.load()
    catalogue = await catalogues.Catalogue.open(books, clock, data)
    await stock(catalogue, money, data, files, free=free)
    tokeniser = catalogues.TokeniserHost(catalogue.models())
    await tokeniser.start()
    stack.push_async_callback(tokeniser.stop)
    receipts = proof.Receipts(books, clock)
    asset = pool_asset(money.asset_class)
    gate = payments.Gate(keys, accounts, books, clock, entropy, asset=asset, receipts=receipts)
    metrics = coordinator.Metrics()
    owner = coordinator.Coordinator(
        config=config,
        clock=clock,
        entropy=entropy,
        key=node_key,
        catalogue=catalogue,
        tokeniser=tokeniser,
        gate=gate,
        ledger=accounts,
        receipts=receipts,
        access=access,
        metrics=metrics,
        need=need,
        fallback=fallback,
        own=own,
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
        entropy=entropy,
        metrics=metrics,
        node_key=node_key,
        admin_key=identity.admin_key(data),
    )


def _shares(money: MoneyConfig) -> ledger.Shares:
    return ledger.Shares(
        operators_percent=money.operators_percent,
        treasury_percent=money.treasury_percent,
        infrastructure_percent=money.infrastructure_percent,
    )


def admission(config: Config) -> identity.Mode:
    """Who may join: on a loopback bind who comes from this machine, else an invite is asked."""
    if config.nodes.admit != "auto":
        return config.nodes.admit
    # Not open: a reverse proxy on this machine brings strangers to a loopback bind as well.
    return "near" if config.api.host in LOOPBACK else "invite"


async def _open_ports(
    stack: contextlib.AsyncExitStack,
    rooms: Rooms,
    ports: Ports,
    data: Path,
    certificate: identity.Certificate | None,
) -> Ready:
    """Serve the API and the pages; their addresses are kept in DATA/api.json for commands."""
    config = rooms.config
    app = api.build_app(**{f.name: getattr(rooms, f.name) for f in dataclasses.fields(rooms)})
    open_ports: list[api.Serving] = []
    stack.push_async_callback(_close, open_ports)
    served = await api.serve(app, listen(ports.api, "--api-port"), certificate=certificate)
    open_ports.append(served)
    site, door = web.build_pages(app), listen(ports.web, "--web-port")
    pages = await api.serve(site, door, certificate=certificate)
    app.page_is_at(pages.port)
    open_ports.append(pages)
    reach = Reach(
        config=config,
        certificate=certificate,
        peer=rooms.node_key.peer,
        api_port=served.port,
        web_port=pages.port,
    )
    pool = reach.announcement()
    if pool is not None:
        await stack.enter_async_context(announced(pool, config.lan.interfaces))
    own = {"api": reach.api, "web": reach.web, "pid": os.getpid()}
    # Our own commands take this certificate and no other, whatever authority made it.
    pin = {} if certificate is None else {"certificate": certificate.pem}
    (data / "api.json").write_bytes(msgspec.json.encode({**own, **pin}))
    return Ready(
        coordinator=rooms.node_key.peer,
        api=reach.api,
        web=reach.web,
        join=await _join_address(rooms, reach),
        asset=pool_asset(config.money.asset_class),
        model=rooms.catalogue.resolve(None).card.id,
        lan_api=reach.lan_api,
    )


async def _close(ports: Sequence[api.Serving]) -> None:
    """Together: each looks only every 0.1 s whether it is to stop."""
    await asyncio.gather(*(port.stop() for port in ports))


async def _join_address(rooms: Rooms, reach: Reach) -> str:
    """What another machine says after `join -s`: address, our peer id, an invite if needed."""
    if admission(rooms.config) != "invite":
        return reach.join
    return f"{reach.join}#{await rooms.invites.create(uses=INVITE_USES, ttl_s=INVITE_TTL_S)}"


async def _with_first_key(rooms: Rooms, data: Path, ready: Ready) -> Ready:
    """What is shown of a LOCAL folder's first key; elsewhere credits are paid for."""
    if rooms.config.money.asset_class is not AssetClass.LOCAL:
        return ready
    secret, available_micro = await first_key(rooms, data)
    return msgspec.structs.replace(ready, key=secret, balance_micro=available_micro)


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
