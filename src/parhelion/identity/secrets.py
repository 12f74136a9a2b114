"""Secrets: how they are made, how they rest in the database, and the files that hold them."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from parhelion.words import Problem, ProblemCode

Entropy = Callable[[int], bytes]
"""So many random bytes; `os.urandom`, or a test's own."""

SECRET_LIMIT_BYTES = 4096
"""Every secret file we write is one short line; a larger file is some other file."""

ADMIN_KEY_PREFIX = "prl-admin-"
ADMIN_KEY_BYTES = 32
MODE_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_SHA256 = hashlib.sha256()
"""To copy: looking the algorithm up takes longer than hashing a secret, which each request does."""


def text_of(raw: bytes) -> str:
    """Unpadded base64url, the form of every secret and signature that we write."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def bytes_of(text: str) -> bytes:
    """The bytes of unpadded base64url; ValueError unless `text` is their one canonical form."""
    raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if text_of(raw) != text:
        raise ValueError("not canonical unpadded base64url")
    return raw


def at_rest(secret: str) -> bytes:
    """What the database keeps of a secret.

    A plain SHA-256: our secrets are random, so there is nothing that a slow hash would protect,
    and looking one up by its hash takes the same time whatever part of it was guessed.
    """
    hashed = _SHA256.copy()
    hashed.update(secret.encode("utf-8", "replace"))
    return hashed.digest()


def admin_key(data: Path) -> str:
    """The key that is in charge of this data folder, made at its first start."""
    path = data / "admin.key"
    if not path.exists():
        try:
            write_secret(path, ADMIN_KEY_PREFIX + text_of(os.urandom(ADMIN_KEY_BYTES)))
        except FileExistsError:
            # Another process made it between the look and the write: its key is the key.
            return read_secret(path)
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The one line of a secret file; Problem CONFIG_INVALID when others may read it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(SECRET_LIMIT_BYTES + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error
    if os.name == "posix" and status.st_mode & MODE_OTHERS:
        raise _unusable(
            path,
            f"has mode {stat.S_IMODE(status.st_mode):04o}: others on this machine can read it",
            hint=f"chmod 600 {path.name}, and replace the secret if others use this machine",
        )
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > SECRET_LIMIT_BYTES or not text.isascii():
        raise _unusable(path, "does not hold a secret")
    return text


def write_secret(path: Path, text: str) -> None:
    """A new secret file of mode 0600, whole or not at all; FileExistsError if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    _write_new(draft, text)
    try:
        # A link never replaces a file and appears with all its bytes: exclusive and atomic.
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: still exclusive, but a crash may leave an empty file,
        # which `read_secret` refuses.
        _write_new(path, text)
    finally:
        draft.unlink()


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _unusable(path: Path, what: str, hint: str = "") -> Problem:
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"the secret file {path.name} {what}",
        hint=hint or f"it lies in {path.parent}; a new one is made when the file is gone",
    )
