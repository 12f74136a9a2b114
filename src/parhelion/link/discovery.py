"""Pools on the local network, by mDNS: a coordinator says where it is, a node looks.

What is found is a hint from whoever answered: a node that was given a peer id takes only the
coordinator that proves it in the handshake. A record holds nothing secret, and never an invite.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parhelion.identity import public_of
from parhelion.link.address import Address, address_of
from parhelion.link.broken import clipped
from parhelion.link.messages import SUBPROTOCOL
from parhelion.words import Problem, ProblemCode, Record

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_parhelion._tcp.local."

BROWSE_S = 3.0
"""How long a search lasts: questions go out at once and after one second, answers take a tenth."""

CLOSE_S = 2.0
"""What the goodbye of a record may take; it is a quarter of a second of three packets."""

RECORD_WAIT_S = 2.0
"""How long one name may take to become a record with an address."""

FOUND_LIMIT = 32
"""Names followed up in one search: anybody on the network may claim as many as he likes."""

HOSTS_LIMIT = 8
"""Addresses of one record that are tried."""

NAME_LIMIT_CHARS = 63

log = logging.getLogger("parhelion.link")


class LanPool(Record, frozen=True, kw_only=True):
    """What a coordinator says of itself on its network; nobody has proven any of it."""

    name: str
    peer: str
    hosts: tuple[str, ...]
    port: int
    host: str = ""
    """The name that its certificate carries, where it has one: no address would be believed."""
    tls: bool = False
    path: str = ""
    version: str = ""

    def addresses(self, invite: str | None = None) -> tuple[Address, ...]:
        """Where to dial, in order; each names the peer that must be proven there."""
        return tuple(
            address_of(self.tls, host, self.port, self.path, peer=self.peer, invite=invite)
            for host in ((self.host,) if self.host else self.hosts)
        )


class Search:
    """One search; `next` gives the pools as they answer."""

    def __init__(self, mdns: AsyncZeroconf, allow_loopback: bool, wait_s: float) -> None:
        self._mdns = mdns
        self._allow_loopback = allow_loopback
        self._found: asyncio.Queue[LanPool] = asyncio.Queue(FOUND_LIMIT)
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._until_s = asyncio.get_running_loop().time() + wait_s

    async def next(self) -> LanPool | None:
        """The next pool that answers; None when the time is over."""
        try:
            async with asyncio.timeout_at(self._until_s):
                return await self._found.get()
        except TimeoutError:
            return None

    def heard(self, zeroconf: object, service_type: str, name: str, state_change: Any) -> None:
        """A name was seen: follow it up (python-zeroconf calls this by keyword)."""
        if name in self._followed or len(self._followed) >= FOUND_LIMIT:
            return
        self._followed[name] = asyncio.create_task(self._follow(name), name="mdns-record")

    async def close(self) -> None:
        """End what is still being followed up."""
        for task in self._followed.values():
            task.cancel()
        await asyncio.gather(*self._followed.values(), return_exceptions=True)

    async def _follow(self, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if not await info.async_request(self._mdns.zeroconf, RECORD_WAIT_S * 1000):
            log.info("a pool's record has no address", extra={"record": clipped(name)})
            return
        pool = pool_of(
            info.properties, info.parsed_scoped_addresses(), info.port, self._allow_loopback
        )
        if pool is None:
            log.warning("a record that is no pool's", extra={"record": clipped(name)})
            return
        self._found.put_nowait(pool)


@contextlib.asynccontextmanager
async def searching(
    interfaces: Sequence[str] = (), wait_s: float = BROWSE_S
) -> AsyncIterator[Search]:
    """Look for pools on the networks of these addresses (none: on all), for `wait_s`.

    Problem LINK_BROKEN where this machine cannot ask its network.
    """
    async with _opened(interfaces) as mdns:
        from zeroconf.asyncio import AsyncServiceBrowser

        allow_loopback = any(_is_loopback(address) for address in interfaces)
        search = Search(mdns, allow_loopback, wait_s)
        browser = AsyncServiceBrowser(mdns.zeroconf, SERVICE_TYPE, handlers=[search.heard])
        try:
            yield search
        finally:
            await browser.async_cancel()
            await search.close()


@contextlib.asynccontextmanager
async def announced(pool: LanPool, interfaces: Sequence[str] = ()) -> AsyncIterator[None]:
    """Announce a pool for as long as the context lasts.

    It begins in the background, because it takes a second; where the network does not let us, that
    is logged and nothing else: a pool does not need it.
    """
    announcing = asyncio.create_task(_announce(pool, interfaces), name="mdns-announce")
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.wait([announcing])


async def _announce(pool: LanPool, interfaces: Sequence[str]) -> None:
    try:
        import zeroconf
    except ImportError as error:
        log.warning("not announced on the network", extra={"cause": str(error)})
        return
    try:
        async with _opened(interfaces) as mdns:
            try:
                await mdns.async_register_service(record_of(pool), allow_name_change=True)
                log.info("announced on the network", extra={"pool": pool.name})
                await asyncio.Event().wait()
            finally:
                # So that nobody finds a pool that is gone; a record ends by itself in two minutes.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await mdns.async_unregister_all_services()
    except Problem as problem:
        log.warning("not announced on the network", extra={"cause": problem.message})
    except (zeroconf.Error, OSError) as error:
        log.warning("not announced on the network", extra={"cause": repr(error)})


def record_of(pool: LanPool) -> AsyncServiceInfo:
    """The mDNS record of a pool."""
    from zeroconf.asyncio import AsyncServiceInfo

    # The end of a peer id is the part that differs; the pool's own name is in the text.
    tail = pool.peer[-8:]
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"Parhelion {tail}.{SERVICE_TYPE}",
        port=pool.port,
        parsed_addresses=list(pool.hosts),
        server=f"parhelion-{tail.lower()}.local.",
        properties={
            "id": pool.peer,
            "host": pool.host,
            "name": pool.name,
            "version": pool.version,
            "link": SUBPROTOCOL,
            "path": pool.path,
            "tls": "1" if pool.tls else "0",
        },
    )


def pool_of(
    properties: Mapping[bytes, bytes | None],
    hosts: Sequence[str],
    port: int | None,
    allow_loopback: bool,
) -> LanPool | None:
    """The pool that a record describes; None for a record that is none of ours. Pure."""
    peer, path = _text(properties, b"id"), _text(properties, b"path")
    reachable = [host for host in hosts if _is_dialled(host, allow_loopback)][:HOSTS_LIMIT]
    if port is None or not reachable:
        return None
    try:
        public_of(peer)
        pool = LanPool(
            name=clipped(_text(properties, b"name"))[:NAME_LIMIT_CHARS],
            peer=peer,
            hosts=tuple(reachable),
            port=port,
            host=_name(_text(properties, b"host"), allow_loopback),
            tls=_text(properties, b"tls") == "1",
            path=path,
            version=clipped(_text(properties, b"version"))[:NAME_LIMIT_CHARS],
        )
        pool.addresses()
    except Problem:
        # Not an error of ours: anybody may announce anything.
        return None
    return pool


def _text(properties: Mapping[bytes, bytes | None], name: bytes) -> str:
    return (properties.get(name) or b"").decode("utf-8", "replace")


def _name(host: str, allow_loopback: bool) -> str:
    is_local = host.removesuffix(".").rpartition(".")[2].lower() == "localhost"
    # An address is in the record's own list, where it is looked at as one.
    is_address = host.replace(".", "").isdecimal() or ":" in host
    return "" if is_address or (is_local and not allow_loopback) else host


def _is_dialled(host: str, allow_loopback: bool) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        # A stranger's record must not make a node dial this machine's own services.
        return allow_loopback
    # A link-local IPv6 address means something only together with an interface.
    return not (address.is_multicast or address.is_unspecified or address.is_link_local)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.asynccontextmanager
async def _opened(interfaces: Sequence[str]) -> AsyncIterator[AsyncZeroconf]:
    try:
        from zeroconf import InterfaceChoice
        from zeroconf.asyncio import AsyncZeroconf
    except ImportError as error:
        raise _cannot(str(error), "install the package zeroconf, or give an address") from error
    try:
        mdns = AsyncZeroconf(interfaces=list(interfaces) or InterfaceChoice.All)
    except (OSError, RuntimeError) as error:
        raise _cannot(str(error), "give the coordinator's address: join -s HOST:PORT") from error
    try:
        yield mdns
    finally:
        await mdns.async_close()


def _cannot(why: str, hint: str) -> Problem:
    return Problem(
        ProblemCode.LINK_BROKEN, f"this machine cannot ask its network for pools: {why}", hint=hint
    )
