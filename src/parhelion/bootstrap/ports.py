"""The pool's two ports, taken before anything slow begins: what cannot start says so at once."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from parhelion.config import Config
from parhelion.store import FileLock
from parhelion.words import Problem, ProblemCode

DATABASE = "parhelion.db"


@dataclass(frozen=True, slots=True)
class Ports:
    """Sockets that are bound and do not listen yet: until then clients are refused, not kept."""

    api: socket.socket
    web: socket.socket

    def close(self) -> None:
        """Give both ports back."""
        self.api.close()
        self.web.close()


def take_ports(config: Config, data: Path) -> Ports:
    """Both ports of the settings; Problem with what to do when one cannot be had.

    A coordinator that runs from the same folder is named first: it holds the ports too, and other
    ports would not help.
    """
    if (data / DATABASE).exists():
        FileLock(data / DATABASE).release()
    api = bind(config.api.host, config.api.port, "--api-port")
    try:
        return Ports(api, bind(config.web.host, config.web.port, "--web-port"))
    except Problem:
        api.close()
        raise


def bind(host: str, port: int, option: str) -> socket.socket:
    """A socket bound to host and port (0: any free one); `option` is what names another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        # Connections that are still closing are no hindrance; another listener is.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _cannot_listen(host, port, option, error) from error
    bound.setblocking(False)
    return bound


def listen(bound: socket.socket, option: str) -> socket.socket:
    """The same socket, which takes connections from now on."""
    try:
        # Under SO_REUSEADDR two may be bound to one port; only one listens. The server sets its
        # own backlog.
        bound.listen()
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, option, error) from error
    return bound


def _cannot_listen(host: str, port: int, option: str, error: Exception) -> Problem:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Problem(
            ProblemCode.CONFIG_INVALID,
            f"Port {port} at {host} is in use.",
            hint=f"stop what uses it, or name another with {option} (0 takes any free one)",
        )
    cause = error.strerror if isinstance(error, OSError) else str(error)
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"Cannot listen at {host}:{port}: {cause}.",
        hint="name an address of this machine with --host, and a port that you may use with "
        + option,
    )
