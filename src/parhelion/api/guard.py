"""Whose name a request may use for us: foreign Host and Origin headers are refused.

A web page can make its visitor's browser send requests to a server on localhost, and by DNS
rebinding even read the answers; the browser then names the page's own host, and that gives it away.
So an Origin is refused unless it is the very address that the request went to, our own page's, or a
configured one: another server on this machine, or on an address like ours, is a stranger.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

from parhelion.config import LOOPBACK, ApiConfig
from parhelion.words import Problem, ProblemCode

HINT = "the operator sets allowed_hosts and cors_origins in [api]"

PORTS = {"http": 80, "https": 443}
"""What browsers leave out of an address, in Host and Origin alike."""

PORT_LIMIT = 65535


class Guard:
    """Checks the two headers against the names that are ours; `web_port` is our own page's."""

    def __init__(
        self, config: ApiConfig, web_host: str = "127.0.0.1", web_port: int | None = None
    ) -> None:
        self.web_port = web_port
        bound = {_bracketed(config.host), _bracketed(web_host)}
        machine = socket.gethostname().lower()
        # A name with dots is the DNS's to answer, so only allowed_hosts can make it ours.
        own = set() if "." in machine else {machine, f"{machine}.local"}
        loopback = {_bracketed(host) for host in LOOPBACK}
        self._loopback = loopback
        self._hosts = loopback | bound | own | {h.lower() for h in config.allowed_hosts}
        # An address written out is resolved by nobody, so it cannot be rebound; on a loopback
        # bind there is still no reason for any but our own.
        self._literals = not bound <= loopback
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.cors_origins)

    def check(self, fields: Mapping[bytes, bytes], scheme: str) -> None:
        """Problem FORBIDDEN when Host or Origin is foreign, or a Host's port no port.

        Both may be absent.

        `scheme` is how we were reached: `http`, unless a certificate is ours.
        """
        host = fields.get(b"host")
        # Whatever stands behind the name goes on into the addresses that we name and compare.
        if host is not None and not (self._ours(host_name(host)) and _has_port(host)):
            raise Problem(
                ProblemCode.FORBIDDEN, "This Host header names another server.", hint=HINT
            )
        origin = fields.get(b"origin")
        if origin is not None and not self._known(origin, host or b"", scheme):
            raise Problem(ProblemCode.FORBIDDEN, "This Origin may not use this server.", hint=HINT)

    def cors(self, fields: Mapping[bytes, bytes]) -> bytes | None:
        """The origin that may read the answer, where one is configured and asks."""
        origin = fields.get(b"origin")
        if origin is None or not self._origins:
            return None
        return origin if origin.decode("latin-1").rstrip("/").lower() in self._origins else None

    def _known(self, origin: bytes, host: bytes, scheme: str) -> bool:
        text = origin.decode("latin-1").lower()
        if text.rstrip("/") in self._origins:
            return True
        theirs, mark, rest = text.partition("://")
        if not mark or theirs != scheme:
            return False
        (name, port), here = _place(rest.encode("latin-1"), scheme), _place(host, scheme)
        if port is None:
            return False
        if port != here[1]:
            # The page's port is ours under every name of this machine, and no other port is.
            same_machine = name in self._loopback and here[0] in self._loopback
            return port == self.web_port and (name == here[0] or same_machine)
        return name == here[0]

    def _ours(self, name: str) -> bool:
        return name in self._hosts or (self._literals and _is_literal(name))


def _bracketed(host: str) -> str:
    host = host.lower()
    return f"[{host}]" if ":" in host else host


def host_name(field: bytes) -> str:
    """The name without its port; IPv6 keeps its brackets."""
    text = field.decode("latin-1").lower()
    if text.startswith("["):
        return text[: text.find("]") + 1]
    return text.partition(":")[0]


def _place(field: bytes, scheme: str) -> tuple[str, int | None]:
    """Name and port of a Host, or of an Origin without its scheme; None for no port that can be."""
    name = host_name(field)
    rest = field.decode("latin-1").lower().removeprefix(name)
    if not rest:
        return name, PORTS.get(scheme)
    return name, int(rest[1:]) if _has_port(field) else None


def _has_port(field: bytes) -> bool:
    """Whether what stands behind the name is a port that can be, or nothing does."""
    rest = field.decode("latin-1").lower().removeprefix(host_name(field))
    if not rest:
        return True
    is_number = rest.startswith(":") and rest[1:].isascii() and rest[1:].isdigit()
    return is_number and len(rest) <= len(":65535") and int(rest[1:]) <= PORT_LIMIT


def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
