"""A TCP cable between two processes that a test can cut: it stops forwarding and closes nothing."""

from __future__ import annotations

import contextlib
import socket
import threading

PIECE_BYTES = 65536
CONNECT_DEADLINE_S = 5.0


class Cable:
    """Listens on a loopback port and forwards to `port`; after `cut` nothing gets through.

    Neither end is told: as when a cable is pulled or a router forgets. `mend` lets new connections
    through again; those that were cut stay silent. Close it at the end.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._is_cut = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on what is sent vanishes, in both directions."""
        self._is_cut.set()

    def mend(self) -> None:
        """New connections get through; the old ones are forgotten, as by a router."""
        self._is_cut = threading.Event()

    def close(self) -> None:
        """Close everything, so that both ends see it."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

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
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(source, sink, self._is_cut), daemon=True
                    ).start()

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket, is_cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if not is_cut.is_set():
                    sink.sendall(piece)
        if not is_cut.is_set():
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
