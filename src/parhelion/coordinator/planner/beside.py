"""What a pipeline could be beside what it is: plain splits, a better one, and why that waits."""

from __future__ import annotations

from collections.abc import Iterator

from parhelion.coordinator.planner.baselines import FEWEST, baselines
from parhelion.coordinator.planner.figures import PipelineFigures
from parhelion.coordinator.planner.order import QUICK_LIMIT, arranged
from parhelion.coordinator.planner.repair import GAIN
from parhelion.coordinator.planner.terms import Terms

STAGES_LIMIT = 12
"""A better deal is looked for among the members of a pipeline of at most so many."""

WORTH_SAYING = 0.02
"""A gain of less is what the search leaves and the figures round off."""


def plain_splits(terms: Terms) -> Iterator[str]:
    """What the two plain ways to split come to; where they come to the same it is said once."""
    alike: dict[str, list[str]] = {}
    for name, cut in baselines(terms):
        if cut is not None:
            said = (
                f"({len(cut.order)} nodes) {cut.cost_ms:.1f} ms, one stream alone "
                f"{cut.speed.token_ms:.1f} ms"
            )
            alike.setdefault(said, []).append(name)
    for said, names in alike.items():
        # Where the fewest that are enough are all of them, there is nothing to add.
        others = [name for name in names[1:] if name.removesuffix(FEWEST) not in names]
        others += [name for name in names[1:] if not name.endswith(FEWEST)]
        more = f"; {' and '.join(others)}: the same" if others else ""
        yield f"  beside: {names[0]} {said}{more}"


def why_it_stays(one: PipelineFigures, terms: Terms, *, is_alone: bool) -> Iterator[str]:
    """Where its layers could be dealt better by what is measured now: why they are not.

    `is_alone`: the model has no other pipeline, so that the plain splits are of the same streams.
    One of several may be worse than it could be by a few per cent from the first: streams go where
    they add least, so the planner has not dealt it for the even share that its figures are of.
    """
    found_ms = _best_ms(one, terms, is_alone=is_alone)
    gain = 1 - found_ms / one.stream_ms if one.stream_ms > 0 else 0.0
    if gain < (WORTH_SAYING if is_alone else GAIN):
        return
    better = (
        f"  dealt anew by what is measured now, a stream would wait {found_ms:.1f} ms instead of "
        f"{one.stream_ms:.1f} ms ({gain:.0%} less): "
    )
    if gain < GAIN:
        yield better + f"layers that serve move only for {GAIN:.0%}, for each move is a load"
    else:
        yield better + (
            "that was measured after they were dealt; it is looked at when a stage is found slow "
            "or the idle pipeline is timed again, every five minutes"
        )


def _best_ms(one: PipelineFigures, terms: Terms, *, is_alone: bool) -> float:
    """What a stream would wait with the least that is found for it."""
    found = [one.stream_ms]
    if 1 < len(one.stages) <= STAGES_LIMIT:
        index = {peer: at for at, peer in enumerate(terms.peers)}
        group = [index[stage.peer] for stage in one.stages]
        again = arranged(terms, group, one.streams, QUICK_LIMIT)
        found += [] if again is None else [again.cost_ms]
    if is_alone:
        found += [cut.cost_ms for _, cut in baselines(terms) if cut is not None]
    return min(found)
