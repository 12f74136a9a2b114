"""Our engine's word on a node's ids: where it would have chosen otherwise, and how nearly.

Each difference is asked about twice: what our engine says after the node's own ids, and whether it
would have chosen the node's id with that id's logit a little higher. Where it would, the two were
nearly level, and another order of sums decides; no rounding makes an id likely that is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from parhelion.coordinator.compare import TIE_LOGITS, Tally, Verdict, agree
from parhelion.words import Job

Ids = Callable[[Job], Awaitable[Sequence[int]]]
"""Runs a job at our engine: the ids that follow its `output_ids`, up to `max_tokens`."""


async def compare(ask: Ids, job: Job, theirs: Sequence[int], tally: Tally) -> None:
    """Count into `tally` where our engine agrees with `theirs`, until it is sure of a liar."""
    at = 0
    while at < len(theirs) and tally.verdict is not Verdict.FOREIGN:
        ours = await ask(_after(job, theirs[:at], len(theirs)))
        same = agree(theirs[at:], ours)
        tally.add(same, 0)
        at += same
        if at < len(theirs):
            far = not await _is_tie(ask, job, theirs, at)
            tally.add(1, 1, int(far))
            at += 1


async def _is_tie(ask: Ids, job: Job, theirs: Sequence[int], at: int) -> bool:
    raised = msgspec.structs.replace(job.params, logit_bias=((theirs[at], TIE_LOGITS),))
    again = msgspec.structs.replace(_after(job, theirs[:at], at + 1), params=raised)
    return tuple(await ask(again)) == (theirs[at],)


def _after(job: Job, output_ids: Sequence[int], max_tokens: int) -> Job:
    return msgspec.structs.replace(job, output_ids=tuple(output_ids), max_tokens=max_tokens)
