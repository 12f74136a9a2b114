"""The TLS certificate that a coordinator serves: read, checked before anything starts, and pinned.

Pinned means that this machine's own commands and node, which know the coordinator's folder, take
exactly this certificate, whatever name it carries: stricter than asking a certificate authority.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
import stat
from pathlib import Path
from typing import Any, NoReturn

from parhelion.words import Problem, ProblemCode, Record

PEM_LIMIT_BYTES = 256 * 1024
"""A chain of certificates is under 20 kB; a larger file is some other file."""

HANDSHAKE_ROUNDS = 8
"""Turns that both ends of a handshake in memory get; it takes three."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Certificate(Record, frozen=True, kw_only=True):
    """A usable certificate: its files, its own part in PEM, and the names that it is good for."""

    cert: str
    key: str
    pem: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


def read_certificate(cert: str, key: str) -> Certificate:
    """The certificate and key in these files; Problem CONFIG_INVALID names what is wrong."""
    if not (cert and key):
        missing = "--tls-key" if cert else "--tls-cert"
        raise _unusable("a certificate and its key go together", f"say {missing} FILE too")
    chain, _ = _text(cert, "certificate"), _text(key, "key")
    if os.name == "posix" and Path(key).stat().st_mode & stat.S_IRWXO:
        raise _unusable(f"everybody on this machine can read the TLS key {key}", f"chmod o= {key}")
    leaf = _PEM.search(chain)
    if leaf is None:
        raise _unusable(f"there is no certificate in {cert}", "it is a PEM file: -----BEGIN ...")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(cert, key, password=lambda: _locked(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable(
                f"the TLS key {key} is not the one of the certificate {cert}",
                "name the pair that was made together; the server's certificate stands first",
            ) from error
        raise _unusable(
            f"{cert} and {key} are no certificate and key ({error.reason or error})",
            "both are PEM files, as certbot and openssl write them",
        ) from error
    names, addresses = _subject(server, leaf[0], cert)
    return Certificate(cert=cert, key=key, pem=leaf[0], names=names, addresses=addresses)


def pinned(pem: str) -> ssl.SSLContext:
    """A client's TLS that takes this one certificate and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The name does not matter, because no other certificate passes.
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    return context


def _text(path: str, what: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(PEM_LIMIT_BYTES + 1)
    except OSError as error:
        raise _unusable(
            f"the TLS {what} {path} cannot be read: {error.strerror}",
            "is the path right, and may this user read it?",
        ) from error
    if len(data) > PEM_LIMIT_BYTES:
        raise _unusable(f"{path} is no TLS {what}: it is too large", "name a PEM file")
    return data.decode("ascii", "replace")


def _locked(key: str) -> NoReturn:
    raise _unusable(
        f"the TLS key {key} has a passphrase",
        f"a server starts without a person: openssl pkey -in {key} -out NEW, and chmod 600 NEW",
    )


def _subject(
    server: ssl.SSLContext, leaf: str, path: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """DNS names and addresses of the certificate, which Python tells to a client only."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pinned(leaf).wrap_bio(to_client, to_server)
    ends = (client, server.wrap_bio(to_server, to_client, server_side=True))
    try:
        for _ in range(HANDSHAKE_ROUNDS):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise _unusable(
            f"the TLS certificate {path} is not good: {why}",
            "renew it, and look at this machine's clock",
        ) from error
    found: dict[str, Any] = client.getpeercert() or {}
    pairs: list[tuple[str, str]] = list(found.get("subjectAltName", ()))
    names = tuple(value.lower() for kind, value in pairs if kind == "DNS" and "*" not in value)
    addresses = tuple(
        str(ipaddress.ip_address(value.strip())) for kind, value in pairs if kind == "IP Address"
    )
    return names, addresses


def _unusable(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
