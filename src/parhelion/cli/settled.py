"""What became of an answer that was stopped: its counts and cost come from its receipt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from parhelion.cli.client import Api, escape
from parhelion.words import Problem, ProblemCode

T = TypeVar("T")

SETTLE_WAIT_S = 5.0
"""The coordinator notices the hang-up, waits at most 2 s for a signature, and commits."""

LOOK_AGAIN_S = 0.1


def settled_usage(api: Api, answer: str, wait_s: float = SETTLE_WAIT_S) -> dict[str, Any] | None:
    """The usage of a stopped answer by its id, once it is settled; None if that takes too long."""
    path = f"/v1/receipts/{escape(answer)}"

    def look() -> dict[str, Any] | None:
        try:
            return api.get(path)
        except Problem as problem:
            if problem.code is ProblemCode.NOT_FOUND:
                return None
            raise

    receipt = _waited(look, wait_s)
    if receipt is None:
        return None
    return {
        "prompt_tokens": receipt["prompt_tokens"],
        "completion_tokens": receipt["completion_tokens"],
        "cost": receipt["cost_micro"],
        "asset": receipt["rate"]["asset"],
        "nodes": list(dict.fromkeys(_nodes(receipt["segments"]))),
        "route": receipt["route"],
        "receipt": receipt["id"],
    }


def quiet_balance(api: Api, wait_s: float = SETTLE_WAIT_S) -> dict[str, Any]:
    """The balance when nothing is held any more, or as it is after `wait_s`."""

    def look() -> dict[str, Any] | None:
        found = api.get("/v1/credits/balance")
        return found if found["held"] == "0" else None

    return _waited(look, wait_s) or api.get("/v1/credits/balance")


def _waited(look: Callable[[], T | None], wait_s: float) -> T | None:
    """The first thing that `look` finds; a Ctrl-C ends the waiting, not the program."""
    until_s = time.monotonic() + wait_s
    try:
        while (found := look()) is None and time.monotonic() < until_s:
            time.sleep(LOOK_AGAIN_S)
    except (KeyboardInterrupt, Problem):
        return None
    return found


def _nodes(segments: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Who worked on an answer; of a pipeline every stage."""
    for segment in segments:
        for part in segment.get("stages") or (segment,):
            yield part["node"]
