"""A coordinator: its rooms opened in order, its ports, its first key, perhaps a node beside it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from parhelion import api, coordinator, identity, proof, web
from parhelion import models as catalogues
from parhelion.api.rooms import Rooms
from parhelion.bootstrap.first_key import first_key
from parhelion.bootstrap.ground import Ground, open_ground
from parhelion.bootstrap.join_address import JoinAddress, admission
from parhelion.bootstrap.local_chains import LocalChain
from parhelion.bootstrap.local_node import LocalNode
from parhelion.bootstrap.ports import Ports, listen
from parhelion.bootstrap.reach import Reach
from parhelion.bootstrap.ready import (
    DRAIN_DEADLINE_S,
    ChainAt,
    Pool,
    Ready,
    folder,
)
from parhelion.bootstrap.selling import (
    Selling,
    gate_of,
    metrics_of,
    open_selling,
    sold_for,
    till_of,
)
from parhelion.bootstrap.stock import File, stock
from parhelion.config import Config, pool_asset
from parhelion.link import announced
from parhelion.setup import SetupBook, Start
from parhelion.words import AssetClass, Problem, ProblemCode

log = logging.getLogger("parhelion.bootstrap")

READY_DEADLINE_S = 180.0
"""A large model loads from a cold disk in this time; past it something is wrong."""

READY_POLL_S = 0.02
"""How often a start looks whether its node has joined; nothing else waits for it."""

SWITCH_INTERVAL_S = 0.0005
"""The store's writer thread waits so long for the loop's turn to end, not 5 ms: it halves the
median of a hold when the loop is busy."""

YOUNG_OBJECTS = 5_000
"""How many new objects the cycle collector waits for; at its own 700 it looks at every running
request's objects again and again, for some 8 % of a request's CPU."""


async def serve_pool(
    config: Config,
    files: Sequence[File],
    ports: Ports,
    *,
    chosen: SetupBook,
    node: LocalNode | None,
    fallback: LocalNode | None,
    fallback_peer: str | None,
    own: Sequence[str],
    certificate: identity.Certificate | None,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    on_pool: Callable[[Pool], None] | None = None,
    chains: Sequence[LocalChain] = (),
) -> None:
    """Serve the models of `files` until `stop` is set, then drain; see `pool.run_coordinator`."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    data = folder(config)
    pem = None
    if certificate is not None:
        config, pem = _with_names(config, certificate), certificate.pem
    async with contextlib.AsyncExitStack() as stack:
        rooms = await open_rooms(
            stack,
            config,
            data,
            chosen=chosen,
            files=files,
            fallback=fallback_peer,
            own=own,
            chains=chains,
        )
        ready = await _open_ports(stack, rooms, ports, data, certificate)
        # Before the ports close, so that nodes are told; after the local node has left.
        stack.push_async_callback(rooms.coordinator.stop)
        if not chosen.start.private:
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
                _tell_changes(rooms.coordinator, chosen.start.nodes, on_pool)
            await stop.wait()
        await rooms.coordinator.drain(DRAIN_DEADLINE_S)


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
        now = Pool(
            need=owner.health().need,
            ready=names,
            complete=owner.health().status == "ready",
            has_members=any(view.memory_bytes is not None for view in views),
        )
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
    chosen: SetupBook,
    files: Sequence[File],
    fallback: str | None = None,
    own: Sequence[str] = (),
    chains: Sequence[LocalChain] = (),
) -> Rooms:
    """Every room of a coordinator, joined; `stack` closes them in reverse."""
    ground = await open_ground(stack, config, data)
    books, clock, entropy = ground.books, ground.clock, ground.entropy
    invites, access = await _admitted(ground)
    # Beside the models: it waits for chains that are starting.
    opening = asyncio.create_task(open_selling(stack, ground, chains, chosen.start))
    stack.push_async_callback(_given_up, opening)
    catalogue = await _stocked(ground, files, chains, chosen.start)
    tokeniser, slices = await _served(stack, catalogue, data)
    fetch_tokens, receipts = identity.FetchTokens(clock, entropy), proof.Receipts(books, clock)
    selling = await opening
    gate, metrics = gate_of(ground, selling, receipts), metrics_of(selling)
    owner = coordinator.Coordinator(
        config=config,
        clock=clock,
        entropy=entropy,
        key=ground.node_key,
        catalogue=catalogue,
        tokeniser=tokeniser,
        gate=gate,
        ledger=ground.ledger,
        receipts=receipts,
        access=access,
        metrics=metrics,
        need=chosen.start.nodes,
        fallback=fallback,
        own=own,
        slices=slices,
        fetch_tokens=fetch_tokens,
    )
    await owner.start()
    stack.push_async_callback(owner.stop)
    return Rooms(
        coordinator=owner,
        catalogue=catalogue,
        keys=ground.keys,
        ledger=ground.ledger,
        receipts=receipts,
        accounts=identity.Accounts(books, ground.ledger, clock),
        invites=invites,
        access=access,
        store=books,
        config=config,
        clock=clock,
        entropy=entropy,
        metrics=metrics,
        node_key=ground.node_key,
        admin_key=identity.admin_key(data),
        slices=slices,
        fetch_tokens=fetch_tokens,
        wallets=selling.wallets,
        sessions=selling.sessions,
        members=selling.members,
        sign_ins=selling.sign_ins,
        shop=selling.shop,
        till=till_of(ground, selling, gate),
        setup=chosen,
    )


async def _stocked(
    ground: Ground,
    files: Sequence[File],
    chains: Sequence[LocalChain],
    start: Start,
) -> catalogues.Catalogue:
    """The catalogue with the models of this start, the default one first."""
    config, data, free, first = ground.config, ground.data, start.private, start.model
    catalogue = await catalogues.Catalogue.open(ground.books, ground.clock, data)
    await stock(catalogue, config.money, data, files, free=free, sold_for=sold_for(config, chains))
    if first is not None and any(model.card.id == first for model in catalogue.models()):
        catalogue.put_first([first])
    elif first is not None:
        log.warning("the default model that was set up is not there", extra={"model": first})
    return catalogue


async def _admitted(ground: Ground) -> tuple[identity.Invites, identity.NodeAccess]:
    """Who may join, and what was decided of nodes before."""
    config = ground.config
    invites = identity.Invites(ground.books, ground.clock)
    access = identity.NodeAccess(
        ground.books, ground.clock, invites, admission(config), config.nodes.allowed
    )
    await access.load()
    return invites, access


async def _served(
    stack: contextlib.AsyncExitStack, catalogue: catalogues.Catalogue, data: Path
) -> tuple[catalogues.TokeniserHost, catalogues.SliceBook]:
    """What is done with the models' files: text becomes ids, and layers are cut for nodes."""
    tokeniser = catalogues.TokeniserHost(catalogue.models())
    await tokeniser.start()
    stack.push_async_callback(tokeniser.stop)
    slices = catalogues.SliceBook(catalogue, data / "models")
    stack.callback(slices.close)
    return tokeniser, slices


async def _given_up(task: asyncio.Task[Selling]) -> None:
    """End what is still being opened when the start has failed elsewhere."""
    task.cancel()
    await asyncio.wait([task])


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
    chains = _chains_at(rooms)
    joining = JoinAddress(rooms, reach)
    rooms.setup.join = joining.now
    own = {"api": reach.api, "web": reach.web, "pid": os.getpid(), "chains": chains}
    # Our own commands take this certificate and no other, whatever authority made it.
    pin = {} if certificate is None else {"certificate": certificate.pem}
    (data / "api.json").write_bytes(msgspec.json.encode({**own, **pin}))
    return Ready(
        coordinator=rooms.node_key.peer,
        api=reach.api,
        web=reach.web,
        join=await joining.now(),
        asset=pool_asset(config.money.asset_class),
        model=rooms.catalogue.resolve(None).card.id,
        lan_api=reach.lan_api,
        chains=chains,
    )


def _chains_at(rooms: Rooms) -> tuple[ChainAt, ...]:
    if rooms.shop is None:
        return ()
    from parhelion.bootstrap.payments import chains_at

    return chains_at(rooms.shop)


async def _close(ports: Sequence[api.Serving]) -> None:
    """Together: each looks only every 0.1 s whether it is to stop."""
    await asyncio.gather(*(port.stop() for port in ports))


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
            async with asyncio.timeout(READY_POLL_S):
                await stop.wait()
