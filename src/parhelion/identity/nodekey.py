"""The key of a node or coordinator: an Ed25519 seed in a file of mode 0600."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from parhelion.identity.peers import SIGNATURE_BYTES, peer_of
from parhelion.identity.secrets import bytes_of, read_secret, text_of, write_secret
from parhelion.words import Problem, ProblemCode

SEED_BYTES = 32
FILE_PREFIX = "ed25519-seed:"
"""What kind of secret the file holds, so that no other file is ever taken for a key."""


class NodeKey:
    """A private key that signs; what it signs starts with a domain of the caller's own."""

    def __init__(self, seed: bytes) -> None:
        self.public, self._secret = crypto_sign_seed_keypair(seed)
        self.peer = peer_of(self.public)

    @classmethod
    def load_or_create(cls, path: Path) -> NodeKey:
        """The key of `path`, made at the first call; Problem CONFIG_INVALID if unusable."""
        if not path.exists():
            try:
                write_secret(path, FILE_PREFIX + text_of(os.urandom(SEED_BYTES)))
            except FileExistsError:
                # Two processes started at once: the first one's key is the key of both.
                return cls._load(path)
        return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> NodeKey:
        text = read_secret(path)
        try:
            seed = bytes_of(text.removeprefix(FILE_PREFIX))
        except ValueError:
            seed = b""
        if not text.startswith(FILE_PREFIX) or len(seed) != SEED_BYTES:
            raise Problem(
                ProblemCode.CONFIG_INVALID,
                f"{path.name} is not a key file",
                hint="put the key's own file back; without it this node becomes another peer",
            )
        return cls(seed)

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def derived(self, purpose: bytes) -> bytes:
        """32 secret bytes for one purpose, the same at each start; they do not tell the key."""
        return hmac.digest(self._secret[:SEED_BYTES], b"parhelion.derived.1:" + purpose, "sha256")

    def __repr__(self) -> str:
        return f"NodeKey({self.peer})"
