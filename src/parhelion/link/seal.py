"""Sealing of frames: one libsodium secretstream in each direction.

A stream binds order as well as content: a frame that was altered, replayed, reordered, left out
or cut short does not unseal, and neither does any that follows it.
"""

from __future__ import annotations

import nacl.exceptions
from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)

from parhelion.link.broken import broken

HEADER_BYTES = crypto_secretstream_xchacha20poly1305_HEADERBYTES
OVERHEAD_BYTES = crypto_secretstream_xchacha20poly1305_ABYTES + HEADER_BYTES
"""What sealing adds at most; the header stands only before a direction's first frame."""

_MESSAGE = crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_FINAL = crypto_secretstream_xchacha20poly1305_TAG_FINAL


class Seal:
    """Both directions of one session; the keys come from the handshake and differ."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._receive_key = receive_key
        self._out = crypto_secretstream_xchacha20poly1305_state()
        self._in = crypto_secretstream_xchacha20poly1305_state()
        self._header = crypto_secretstream_xchacha20poly1305_init_push(self._out, send_key)
        self._received = 0
        self._ended = False

    def seal(self, body: bytes) -> bytes:
        """The next frame of this direction."""
        return self._push(body, _MESSAGE)

    def seal_final(self, body: bytes) -> bytes:
        """The last frame of this direction, marked so that nobody can cut the stream unseen."""
        return self._push(body, _FINAL)

    def unseal(self, frame: bytes) -> tuple[bytes, bool]:
        """The next frame's body and whether it is the last; LinkBroken when it is not genuine."""
        if self._ended:
            raise broken("a frame came after the last one")
        self._received += 1
        if self._received == 1:
            header, frame = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
            if len(header) < HEADER_BYTES:
                raise self._not_genuine()
            crypto_secretstream_xchacha20poly1305_init_pull(self._in, header, self._receive_key)
        try:
            body, tag = crypto_secretstream_xchacha20poly1305_pull(self._in, frame)
        except (nacl.exceptions.RuntimeError, nacl.exceptions.ValueError) as error:
            raise self._not_genuine() from error
        self._ended = tag == _FINAL
        return body, self._ended

    def _push(self, body: bytes, tag: int) -> bytes:
        header, self._header = self._header, b""
        sealed = crypto_secretstream_xchacha20poly1305_push(self._out, body, tag=tag)
        return header + sealed

    def _not_genuine(self) -> Exception:
        self._ended = True
        return broken(
            f"frame {self._received} cannot be unsealed: altered, replayed, out of order or cut",
            hint="something between node and coordinator changes the traffic; try another network",
        )
