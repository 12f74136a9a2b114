"""A TCP cable between two processes that a test can cut: silently, or so that both ends see it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

PIECE_BYTES = 65536
CONNECT_DEADLINE_S = 5.0


@dataclass(eq=False, slots=True)
class _Wire:
    """One connection: `path` is what its first request asks for, as soon as it has."""

    near: socket.socket
    far: socket.socket
    path: str = ""
    is_cut: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        self.is_cut.set()

    def close(self) -> None:
        for one in (self.near, self.far):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Cable:
    """Listens on a loopback port and forwards to `port`; after `cut` nothing gets through.

    Neither end is told: as when a cable is pulled or a router forgets. `mend` lets new connections
    through again; those that were cut stay silent. `sever` closes connections instead. Close it at
    the end.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._is_cut = threading.Event()
        self._open: list[socket.socket] = []
        self._wires: list[_Wire] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on what is sent vanishes, in both directions, also of new connections."""
        self._is_cut.set()
        for wire in list(self._wires):
            wire.cut()

    def mend(self) -> None:
        """New connections get through; the old ones are forgotten, as by a router."""
        self._is_cut.clear()

    def silence(self, path: str, place: int | None = None) -> int:
        """Cut only what was opened by a request for `path`; new ones get through; how many.

        `place` says which of them alone, in the order in which they were opened.
        """
        return self._each(path, place, _Wire.cut)

    def sever(self, path: str = "", place: int | None = None) -> int:
        """As `silence`, but both ends see their connection closed; without a path all of them."""
        return self._each(path, place, _Wire.close)

    def answer(self, path: str) -> bytes | None:
        """What a connection that begins by asking for this is told, and closed; None: forwarded."""
        return None

    def close(self) -> None:
        """Close everything, so that both ends see it."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _each(self, path: str, place: int | None, strike: Callable[[_Wire], None]) -> int:
        found = [
            wire
            for wire in list(self._wires)
            if wire.path.startswith(path) and not wire.is_cut.is_set()
        ]
        struck = found if place is None else [found[place]]
        for wire in struck:
            strike(wire)
        return len(struck)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # The listener was closed.
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                if self._is_cut.is_set():
                    continue
                far = socket.create_connection(self._target, CONNECT_DEADLINE_S)
                far.settimeout(None)
                self._open.append(far)
                wire = _Wire(near, far)
                self._wires.append(wire)
                if self._is_cut.is_set():
                    wire.cut()
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(wire, source, sink), daemon=True
                    ).start()

    def _forward(self, wire: _Wire, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if source is wire.near and not wire.path:
                    wire.path = _requested(piece)
                    answer = self.answer(wire.path)
                    if answer is not None:
                        source.sendall(answer)
                        break
                if not wire.is_cut.is_set():
                    sink.sendall(piece)
        if not wire.is_cut.is_set():
            wire.close()
        with contextlib.suppress(ValueError):  # Its other direction ended first.
            self._wires.remove(wire)


def _requested(piece: bytes) -> str:
    """The path of an HTTP request that begins with this; "?" of anything else."""
    words = piece.split(b"\r\n", 1)[0].split(b" ")
    return words[1].decode("ascii", "replace") if len(words) == 3 else "?"
