"""Where a node stands, kept in its folder for `parhelion node`: a file, and a lock to prove it.

The process that runs a node holds the folder's lock as long as it lives, so a state whose lock is
free is the last word of one that has ended, whatever its process id means by now.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from parhelion.identity import lock_node
from parhelion.words import Problem, ProblemCode, Record

STATE_NAME = "node.state.json"
STATE_LIMIT_BYTES = 64 * 1024


class HeldStage(Record, frozen=True, kw_only=True):
    """Layers [start, end) of an artefact that a member of pipelines holds, or is loading."""

    digest: str
    start: int
    end: int
    layers: int
    ready: bool
    need_bytes: int
    model: str = ""
    """What the pool calls it."""


class NodeState(Record, frozen=True, kw_only=True):
    """What a node says of itself; `address` is without its invite.

    `models` are the digests that the pool takes from it, `names` what those are called here: an id
    of the catalogue, or a file's stem, never a path.
    """

    pid: int
    peer: str
    name: str
    state: str
    since_ms: int
    started_at_ms: int
    address: str | None = None
    reason: str | None = None
    coordinator: str | None = None
    models: tuple[str, ...] = ()
    names: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    version: str = ""
    memory_bytes: int | None = None
    """What it gives to pipelines; None where it is a member of none."""
    stages: tuple[HeldStage, ...] = ()


def write_state(folder: Path, state: NodeState) -> None:
    """Replace the file, whole or not at all; only its owner can read it."""
    draft = folder / f".{STATE_NAME}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(state))
    draft.replace(folder / STATE_NAME)


def read_state(folder: Path) -> NodeState | None:
    """The last state of the node in this folder; None when none ever ran from it."""
    try:
        with (folder / STATE_NAME).open("rb") as file:
            return msgspec.json.decode(file.read(STATE_LIMIT_BYTES), type=NodeState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"the node's state in {folder} cannot be read: {error}",
            hint="it is written again at the node's next change",
        ) from error


def is_running(folder: Path) -> bool:
    """Whether a process runs a node from this folder now: it holds the folder's lock."""
    try:
        lock_node(folder).release()
    except Problem as problem:
        if problem.code is not ProblemCode.CONFLICT:
            raise
        return True
    return False
