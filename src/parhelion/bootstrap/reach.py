"""How a coordinator is reached: by its own machine, by others, and what it announces of that."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from parhelion import __version__
from parhelion.config import LOOPBACK, Config
from parhelion.identity import Certificate, node_name
from parhelion.link import LanPool
from parhelion.words import Record

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What stands for every address of this machine, and how it calls itself there."""


class Reach(Record, frozen=True, kw_only=True):
    """Where a running coordinator listens, and with which certificate."""

    config: Config
    certificate: Certificate | None
    peer: str
    api_port: int
    web_port: int

    @property
    def api(self) -> str:
        """The API, for this machine's own commands."""
        return self._own(self.config.api.host, self.api_port)

    @property
    def web(self) -> str:
        """The pages, for this machine."""
        return self._own(self.config.web.host, self.web_port)

    @property
    def lan_api(self) -> str | None:
        """The API, for other machines; None where it is bound to loopback."""
        if self.config.api.host in LOOPBACK:
            return None
        return f"{self._scheme}://{_bracketed(self._named())}:{self.api_port}"

    @property
    def join(self) -> str:
        """What a node says after `join -s`, without an invite."""
        host = self._named()
        version = _version(host)
        kind = f"ip{version}" if version else "dns4"
        tls = "/https" if self.certificate else ""
        return f"/{kind}/{host}/tcp/{self.api_port}{tls}/p2p/{self.peer}"

    def announcement(self) -> LanPool | None:
        """What to announce on the network; None where nobody there could come."""
        wanted, lan = self.config.lan.announce, self.config.lan
        host = outward(self.config.api.host)
        if wanted == "never" or (wanted == "auto" and host in LOOPBACK):
            return None
        is_everywhere = self.config.api.host in ANYWHERE
        hosts = lan.interfaces if is_everywhere and lan.interfaces else (host,)
        hosts = tuple(host if _version(host) else _lan_address() for host in hosts)
        named = self._named()
        return LanPool(
            name=lan.name or node_name(self.peer),
            peer=self.peer,
            hosts=hosts,
            host="" if self.certificate is None or _version(named) else named,
            port=self.api_port,
            tls=self.certificate is not None,
            version=__version__,
        )

    @property
    def _scheme(self) -> str:
        return "http" if self.certificate is None else "https"

    def _own(self, bound: str, port: int) -> str:
        return f"{self._scheme}://{_bracketed(ANYWHERE.get(bound, bound))}:{port}"

    def _named(self) -> str:
        """How others call this machine: as its certificate does, where it has one."""
        host = outward(self.config.api.host)
        if self.certificate is None or host in self.certificate.addresses:
            return host
        is_local = host in LOOPBACK
        names = self.certificate.names
        return next((name for name in names if (name == "localhost") == is_local), host)


def outward(host: str) -> str:
    """How other machines reach what is bound to `host`."""
    return _lan_address() if host in ANYWHERE else host


def _lan_address() -> str:
    """This machine's address on the network that it would use; nothing is sent."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): routed, never answered
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _version(host: str) -> int:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 0
