"""What the owner set up in the browser: kept in DATA, and read after settings and command line.

A file and not a table of the store: it says what a start begins before the store is open (nodes,
chains). And not the owner's config.toml: what a person wrote is never rewritten by a program.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from parhelion.config import Config, tier_fault
from parhelion.words import ClosedRecord, Problem, ProblemCode, Record, Tier

FILE = "setup.json"

SIZE_LIMIT_BYTES = 64 * 1024
"""A page; a larger file is some other file."""

NODES_LIMIT = 10_000
"""Twice the largest pool that was ever measured: past it someone slipped a digit."""

MODE_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Told(ClosedRecord, frozen=True, kw_only=True):
    """What command line and settings say of a pool; `private`: it costs nothing and needs no key.

    `models` are as the command names them, the default first.
    """

    models: tuple[str, ...] = ()
    nodes: int = 1
    private: bool = False
    tiers: tuple[Tier, ...] = ()


class Choice(ClosedRecord, frozen=True, kw_only=True):
    """What was chosen, and over what: None is what was never chosen.

    The newest word counts: a choice holds until command line or settings say something else of
    that one thing than they said when it was made.
    """

    over: Told
    model: str | None = None
    """The id of the default model."""
    nodes: int | None = None
    private: bool | None = None
    tiers: tuple[Tier, ...] | None = None


class SetupBook:
    """What was chosen, where it is kept, and what a start was told.

    `join` gives the address that a node joins at, with an invite where one is needed; None before
    ports are open.
    """

    def __init__(self, data: Path, told: Told, choice: Choice | None) -> None:
        self.told = told
        self.choice = choice
        self.join: Callable[[], Awaitable[str]] | None = None
        self._data = data

    @property
    def start(self) -> Start:
        """What the next start goes by, if it is told the same."""
        return settled(self.told, self.choice)

    async def keep(self, choice: Choice | None) -> None:
        """Write it down, None as if nothing had been chosen.

        Problem STORE_UNAVAILABLE, and nothing is changed, where that fails.
        """
        try:
            # An fsync takes milliseconds; the loop goes on meanwhile.
            if choice is None:
                await asyncio.to_thread(forget, self._data)
            else:
                await asyncio.to_thread(write, self._data, choice)
        except OSError as error:
            raise Problem(
                ProblemCode.STORE_UNAVAILABLE,
                f"{FILE} cannot be written: {error.strerror}",
                hint="see whether the data folder's disk is full",
            ) from error
        self.choice = choice


class Start(Record, frozen=True, kw_only=True):
    """What a start goes by; `model` None: the first of those that it was told."""

    model: str | None
    nodes: int
    private: bool
    tiers: tuple[Tier, ...]


def told_of(config: Config, models: tuple[str, ...], nodes: int, private: bool) -> Told:
    """What this command line and these settings say."""
    return Told(models=models, nodes=nodes, private=private, tiers=config.x402.tiers)


def settled(told: Told, choice: Choice | None) -> Start:
    """What holds of the two, thing by thing; pure."""
    start = Start(model=None, nodes=told.nodes, private=told.private, tiers=told.tiers)
    if choice is None:
        return start
    over, held = choice.over, dict[str, object]()
    if choice.model is not None and over.models == told.models:
        held["model"] = choice.model
    for name in ("nodes", "private", "tiers"):
        chosen = getattr(choice, name)
        if chosen is not None and getattr(over, name) == getattr(told, name):
            held[name] = chosen
    return msgspec.structs.replace(start, **held)


def with_start(config: Config, start: Start) -> Config:
    """The settings with what was chosen of them."""
    x402 = msgspec.structs.replace(config.x402, tiers=start.tiers)
    return msgspec.structs.replace(config, x402=x402)


def read(data: Path) -> Choice | None:
    """What is kept in a data folder; Problem CONFIG_INVALID where it cannot be read."""
    path = data / FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(f"it cannot be read: {error.strerror}") from error
    if os.name == "posix" and mode & MODE_OTHERS:
        raise _unusable("others on this machine may read or write it: chmod 600 it")
    if len(raw) > SIZE_LIMIT_BYTES:
        raise _unusable("it is too large")
    try:
        choice = msgspec.json.decode(raw, type=Choice)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unusable(str(error)) from error
    if choice.nodes is not None and not 1 <= choice.nodes <= NODES_LIMIT:
        raise _unusable(f"nodes are 1 to {NODES_LIMIT}")
    wrong = None if choice.tiers is None else tier_fault(choice.tiers)
    if wrong is not None:
        raise _unusable(wrong)
    return choice


def write(data: Path, choice: Choice) -> None:
    """Keep it, whole or not at all, for nobody else to read; OSError where the disk refuses."""
    path = data / FILE
    draft = path.with_name(f".{FILE}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(choice)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(data)


def forget(data: Path) -> None:
    """Keep nothing any more; OSError where the disk refuses."""
    (data / FILE).unlink(missing_ok=True)
    _sync(data)


def _sync(data: Path) -> None:
    if os.name == "posix":
        folder = os.open(data, os.O_RDONLY)
        try:
            os.fsync(folder)  # Else a power cut may bring the old name back.
        finally:
            os.close(folder)


def join_command(address: str, models: tuple[str, ...]) -> str:
    """What a node is started with; it needs the pool's models as files of its machine."""
    # The file's name, not its path: that is this machine's, and nobody else's business.
    names = [Path(name).name if is_file(name) else name for name in models]
    options = "".join(f" -m {shlex.quote(name)}" for name in names)
    return f"parhelion join -s '{address}'{options}"


def is_file(name: str) -> bool:
    """Whether a model was named by its file."""
    return name.endswith(".gguf")


def _unusable(why: str) -> Problem:
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"{FILE} of the data folder is no set-up of ours: {why}",
        hint="mend it, or move it away: the pool then starts as command and settings say",
    )
