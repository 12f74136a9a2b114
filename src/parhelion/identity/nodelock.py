"""The lock on a node's folder: one key is one node, so one process at a time may use it."""

from __future__ import annotations

from pathlib import Path

from parhelion.store import FileLock
from parhelion.words import Problem, ProblemCode


def lock_node(folder: Path) -> FileLock:
    """Hold the node folder until `release` or the end of the process.

    Problem CONFLICT while another process holds it: with the same key the two would be one node
    to the coordinator, and push each other out.
    """
    try:
        return FileLock(folder / "node.key")
    except Problem as problem:
        raise Problem(
            ProblemCode.CONFLICT,
            f"another node runs from the folder {folder}",
            hint="stop it first, or start this one from a folder of its own: add --data DIR",
        ) from problem
    except OSError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"the node's folder {folder} cannot be used: {error.strerror}",
            hint="name another one with --data",
        ) from error
