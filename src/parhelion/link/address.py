"""Where a coordinator is, as people write it; pure.

`host:port`, `http(s)://` or `ws(s)://` URLs, and multiaddrs
(`/ip4/192.0.2.1/tcp/3001/p2p/12D3...`), each with an optional `#INVITE`; or a peer id alone, which
has to be looked for.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from parhelion.identity import public_of
from parhelion.words import Problem, ProblemCode, Record

NODE_PATH = "/v1/node"
ADDRESS_LIMIT_CHARS = 2048
"""Longer than any host, path, peer id and invite together."""

HINT = (
    "write host:port, https://host, /ip4/HOST/tcp/PORT/p2p/PEER or a peer id of this network, each "
    "with an optional #INVITE; the coordinator prints its join command when it starts"
)

PEER_CHARS = 52
"""Every peer id has this length, and no host that people have does."""

_TLS = {"http": False, "ws": False, "https": True, "wss": True}
_DEFAULT_PORT = {False: 80, True: 443}
_HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_INVITE = re.compile(r"[A-Za-z0-9_.~-]{1,256}")
_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)*")


class Address(Record, frozen=True, kw_only=True):
    """A coordinator's base URL (http or https), and the peer id it must prove if one was given."""

    url: str
    peer: str | None = None
    invite: str | None = None
    certificate: str | None = None
    """The one TLS certificate (PEM) to take there, whatever name it carries: our own coordinator's,
    told by its own process. None: one that this machine trusts for the host's name."""

    @property
    def dial_url(self) -> str:
        """The URL of the node session."""
        return self.url_of(NODE_PATH)

    def url_of(self, path: str) -> str:
        """The URL of a WebSocket of the coordinator.

        `ws` for plain addresses and `https` for sealed ones: aiohttp speaks WebSocket to both, and
        takes HTTPS_PROXY only for the latter (a plain WebSocket passes few proxies).
        """
        return self.url.replace("http://", "ws://", 1) + path


class Sought(Record, frozen=True, kw_only=True):
    """A coordinator to look for on this network: the one of a peer id, or whichever there is."""

    peer: str | None = None
    invite: str | None = None


def parse_target(text: str | None) -> Address | Sought:
    """What a person said of where to join: an address, a peer id alone, or nothing at all."""
    if text is None:
        return Sought()
    where, mark, invite = text.strip().partition("#")
    if not where:
        # Whoever answers first would be given it.
        raise _malformed("an invite needs the address or the peer id of its coordinator")
    if any(sign in where for sign in ":/.") or len(where) != PEER_CHARS:
        return parse_address(text)
    try:
        public_of(where)
    except Problem as problem:
        raise _malformed(f"the peer id is wrong: {problem.message}") from problem
    if mark and not _INVITE.fullmatch(invite):
        raise _malformed("what follows # is not an invite")
    return Sought(peer=where, invite=invite or None)


def address_of(
    tls: bool, host: str, port: int, path: str, *, peer: str, invite: str | None
) -> Address:
    """The address of a coordinator that was found; Problem INVALID_REQUEST for one that is none."""
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise _malformed("the path is not a plain one")
    return Address(url=_base(tls, host, str(port)) + path, peer=peer, invite=invite)


def parse_address(text: str) -> Address:
    """The address that a person wrote; Problem INVALID_REQUEST says what is wrong with it."""
    if len(text) > ADDRESS_LIMIT_CHARS:
        raise _malformed(f"an address of {len(text)} characters")
    text = text.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _malformed("an address is printable ASCII without spaces")
    where, mark, invite = text.partition("#")
    if mark and not _INVITE.fullmatch(invite):
        raise _malformed("what follows # is not an invite")
    if where.startswith("/"):
        url, peer = _from_multiaddr(where)
    elif "://" in where:
        url, peer = _from_url(where), None
    else:
        url, peer = _from_host_port(where), None
    return Address(url=url, peer=peer, invite=invite or None)


def _from_multiaddr(text: str) -> tuple[str, str | None]:
    parts = text.split("/")[1:]
    if len(parts) < 4 or parts[0] not in _HOST_KINDS or parts[2] != "tcp":
        raise _malformed("a multiaddr here is /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT")
    kind, host, port, rest = parts[0], parts[1], parts[3], parts[4:]
    if kind in {"ip4", "ip6"} and _ip_version(host) != int(kind[2:]):
        raise _malformed(f"{host!r} is no IPv{kind[2:]} address")
    if kind.startswith("dns") and _ip_version(host):
        raise _malformed(f"{host!r} is a number, not a name: write /ip4 or /ip6")
    tls = False
    if rest and rest[0] in _TLS:
        tls, rest = _TLS[rest[0]], rest[1:]
    if not rest:
        return _base(tls, host, port), None
    if len(rest) != 2 or rest[0] != "p2p":
        raise _malformed("after the port a multiaddr here has only /p2p/PEER")
    try:
        public_of(rest[1])
    except Problem as problem:
        raise _malformed(f"the peer id is wrong: {problem.message}") from problem
    return _base(tls, host, port), rest[1]


def _from_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed(f"not a URL: {error}") from error
    if parts.scheme not in _TLS:
        raise _malformed(f"{parts.scheme!r} is no scheme of ours")
    if parts.username is not None or parts.password is not None:
        raise _malformed("no user or password belongs in the address")
    if "?" in text:
        raise _malformed("no query belongs in the address")
    path = parts.path.rstrip("/").removesuffix(NODE_PATH)
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise _malformed("the path is not a plain one")
    tls = _TLS[parts.scheme]
    return _base(tls, host or "", str(_DEFAULT_PORT[tls] if port is None else port)) + path


def _from_host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port:
        raise _malformed("the port is missing")
    if host.startswith("[") and host.endswith("]"):
        if _ip_version(host[1:-1]) != 6:
            raise _malformed(f"{host} is no IPv6 address")
        host = host[1:-1]
    elif ":" in host:
        raise _malformed("an IPv6 address stands in brackets: [::1]:3001")
    return _base(False, host, port)


def _base(tls: bool, host: str, port: str) -> str:
    if not port.isdecimal() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise _malformed(f"{port[:20]!r} is no port (1 to 65535)")
    version = _ip_version(host)
    if not version and not _is_name(host):
        raise _malformed(f"{host[:100]!r} is no host")
    scheme = "https" if tls else "http"
    written = f"[{host}]" if version == 6 else host.lower()
    default = int(port) == _DEFAULT_PORT[tls]
    return f"{scheme}://{written}" if default else f"{scheme}://{written}:{int(port)}"


def _ip_version(host: str) -> int:
    # A zone (fe80::1%eth0) means something on one machine only, and is refused as a name too.
    try:
        return 0 if "%" in host else ipaddress.ip_address(host).version
    except ValueError:
        return 0


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    # All digits would be taken for an IPv4 address by some resolvers ("1", "0x7f.1").
    is_number = re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", labels[-1]) is not None
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not is_number


def _malformed(message: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=HINT, param="address")
