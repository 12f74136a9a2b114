"""How far each node is proven for each model, and who is probed next; pure, the time is told.

A key costs nothing, so whoever joins may be there to hold a probe for as long as it lasts. Probes
run in three lanes, so that nobody waits for who has shown that: the new, those that came to nothing
before, and those that serve and are looked at again. One address has a part of a lane only.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from parhelion.coordinator.compare import Tally, tolerance
from parhelion.coordinator.session import Session

NEW_AT_ONCE = 32
"""Nodes that were never tried and are asked now; they compute, and we only wait."""

NEW_PER_SITE = 4
"""Of one address. Nodes of one machine have one, and would measure each other's load."""

PROBES_AT_ONCE = 4
"""Of all others: a probe that comes to nothing lasts its whole deadline."""

FAILED_PER_SITE = 2
"""Of those, nodes of one address whose last probe came to nothing: the rest is for who serves."""

PROBES_WAITING = 16
"""Beside those: probes that wait for a slot of a full node keep nobody who joins waiting."""

REMEMBERED = 4096
"""Nodes that left unproven. To push one out takes so many others that were probed after it."""

Key = tuple[str, str]
"""(peer, digest)"""

Lane = Literal["new", "failed", "again"]


@dataclass(slots=True)
class Trial:
    """How far one node is proven for one model."""

    tally: Tally
    due_s: float = 0.0
    probes: int = 0
    failures: int = 0
    tried: bool = False
    """Its last probe came to nothing, or was left, or refused it: it goes behind the new."""
    refused: str | None = None


class Trials:
    """Of the nodes that are here, and of the latest that left with a probe that did not pass."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._here: dict[Key, Trial] = {}
        self._left: OrderedDict[Key, Trial] = OrderedDict()

    def get(self, key: Key) -> Trial | None:
        """The trial of a node that is here."""
        return self._here.get(key)

    def begin(self, key: Key) -> Trial:
        """The trial of a node that is here; a new one where it has none."""
        return self._here.setdefault(key, Trial(Tally(tolerance("", ""))))

    def leave(self, key: Key, *, is_probed: bool) -> None:
        """A node left, perhaps in the middle of a probe: a stranger again, but not a new one."""
        trial = self._here.pop(key, None)
        if trial is None or not (is_probed or trial.tried):
            return
        # A new object: the probe that is under way writes its end into the old one.
        self._left[key] = Trial(
            Tally(trial.tally.tolerance),
            due_s=trial.due_s,
            failures=trial.failures,
            tried=True,
            refused=trial.refused,
        )
        if len(self._left) > self._limit:
            self._left.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Gone for good: nothing is remembered of it."""
        self._here.pop(key, None)

    def back(self, key: Key) -> Trial | None:
        """A node is here: what is remembered of it."""
        trial = self._left.pop(key, None)
        if trial is not None:
            self._here[key] = trial
        return trial


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """A probe that could start now."""

    due_s: float
    session: Session
    digest: str
    lane: Lane

    @property
    def site(self) -> str:
        """Where the node comes from."""
        return self.session.node.site


def chosen(due: Iterable[Due], running: Collection[Due], waiting: int) -> list[Due]:
    """What to start beside what runs; `waiting` of those wait for a slot of a full node."""
    by_time = sorted(due, key=attrgetter("due_s"))
    new = [one for one in by_time if one.lane == "new"]
    rest = [one for one in by_time if one.lane != "new"]
    return [*_new(new, running), *_rest(rest, running, waiting)]


def _new(due: list[Due], running: Collection[Due]) -> list[Due]:
    """Site by site in turns: who has many nodes waits for their own sake only."""
    sites = Counter(one.site for one in running if one.lane == "new")
    free = NEW_AT_ONCE - sites.total()
    by_site: dict[str, list[Due]] = {}
    for one in due:
        by_site.setdefault(one.site, []).append(one)
    turns: list[tuple[int, float, Due]] = []
    for site, here in by_site.items():
        for place, one in enumerate(here[: max(0, NEW_PER_SITE - sites[site])], sites[site]):
            turns.append((place, one.due_s, one))
    turns.sort(key=lambda turn: turn[:2])
    return [one for _place, _due_s, one in turns[: max(0, free)]]


def _rest(due: list[Due], running: Collection[Due], waiting: int) -> list[Due]:
    others = [one for one in running if one.lane != "new"]
    free = PROBES_AT_ONCE - len(others) + min(waiting, PROBES_WAITING)
    failed = Counter(one.site for one in others if one.lane == "failed")
    starting: list[Due] = []
    for one in due:
        if len(starting) >= free:
            break
        if one.lane == "failed":
            if failed[one.site] >= FAILED_PER_SITE:
                continue
            failed[one.site] += 1
        starting.append(one)
    return starting
