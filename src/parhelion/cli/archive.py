"""The file that `parhelion backup` writes: the database and the secrets beside it, in one tar."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parhelion.words import Problem, ProblemCode

DATABASE = "parhelion.db"
LOCAL_KEYS = tuple(
    f"x402/{name}-{of}.key" for name in ("solana", "evm") for of in ("seller", "fee-payer")
)
SECRETS = ("coordinator.key", "admin.key", "first-key", "node/node.key", "node.key", *LOCAL_KEYS)
"""What makes a coordinator, its owner, its first user, its own node and the seller on its LOCAL
chains the same ones again. Keys of real networks lie where the settings say, and are not ours."""

MEMBERS = (DATABASE, *SECRETS, "config.toml", "setup.json")
"""Nothing else is ever read out of such a file, and no other name is ever written to disk."""

SMALL_LIMIT_BYTES = 64 * 1024
"""Keys are a line, settings a page."""


def pack(database: Path, data: Path, target: Path) -> tuple[str, ...]:
    """Write `target` (mode 0600, whole or not at all); the names of what went into it."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                packed = tuple(_packed(tar, database, data))
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return packed


def unpack(source: Path, data: Path) -> tuple[str, ...]:
    """Bring a backup back into the new folder `data`; the names of what was written.

    Problem when it is no backup of ours, is damaged, or the folder has a database already.
    """
    for name in MEMBERS:
        if (data / name).exists():
            raise Problem(
                ProblemCode.CONFLICT,
                f"{data} holds {name} already",
                hint="name a folder that is new or empty with --data",
            )
    with _opened(source) as tar:
        found = {member.name: member for member in tar if member.isfile()}
        if DATABASE not in found:
            raise _no_backup(source, "there is no database in it")
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = data / f".{DATABASE}.restored"
        try:
            _extract(tar, found[DATABASE], draft)
            if fault := damage(draft):
                raise _no_backup(source, fault)
            small = [name for name in MEMBERS if name in found and name != DATABASE]
            for name in small:
                if found[name].size > SMALL_LIMIT_BYTES:
                    raise _no_backup(source, f"{name} is too large")
                _extract(tar, found[name], data / name)
            # Last: a folder without it is no coordinator's.
            os.rename(draft, data / DATABASE)
        finally:
            draft.unlink(missing_ok=True)
    return (DATABASE, *small)


def damage(database: Path) -> str:
    """What SQLite finds wrong with a database file, read only; empty: nothing."""
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"its database cannot be read: {error}"
    return "" if answer == "ok" else f"its database is damaged: {answer}"


def _packed(tar: tarfile.TarFile, database: Path, data: Path) -> Iterator[str]:
    for name in MEMBERS:
        path = database if name == DATABASE else data / name
        if not path.is_file():
            continue
        tar.add(path, arcname=name, recursive=False, filter=_private)
        yield name


def _private(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
    return member


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, mode="r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise _no_backup(source, str(error)) from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(exist_ok=True, mode=0o700)
    content = tar.extractfile(member)
    assert content is not None
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def _no_backup(source: Path, why: str) -> Problem:
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"{source} is not a whole backup: {why}",
        hint="give a file that `parhelion backup FILE` wrote",
    )
