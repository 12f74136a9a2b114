"""What pipelines are made with: orders to nodes, slices, what was measured, who holds what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from parhelion.config import PipelinesConfig
from parhelion.coordinator.holders import Holders
from parhelion.coordinator.layer_times import LayerTime
from parhelion.coordinator.pipeline import Seat
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.second_look import MovesBy, Timed
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.stage_orders import Orders
from parhelion.identity import FetchTokens
from parhelion.models import Catalogue, SliceBook
from parhelion.words import Clock


async def _moves_nothing(_id: str, _timed: Timed) -> bool:
    return False


async def _planned() -> None:
    """There is no plan to wait for."""


LAYER_TIMES_KEPT = 4096
"""Nodes and models whose times are remembered: whoever joins under a new key each time must not
fill the memory, and a node that is back after as many others is simply measured again."""


@dataclass(slots=True)
class Workshop:
    """What pipelines are made with."""

    orders: Orders
    registry: Registry
    catalogue: Catalogue
    slices: SliceBook
    tokens: FetchTokens
    config: PipelinesConfig
    clock: Clock
    secret: bytes
    meet: Callable[[Node], None]
    """Told of a pipeline before it is put to work, as of any node (the prober)."""
    on_progress: Callable[[], None] = lambda: None
    on_measured: Callable[[str], None] = lambda _peer: None
    """Told of a node that is slower or quicker than it was taken for."""
    moves: MovesBy = _moves_nothing
    planned: Callable[[], Awaitable[None]] = _planned
    """Returns when what `on_measured` was told is planned with."""
    times: dict[tuple[str, str], LayerTime] = field(
        default_factory=dict[tuple[str, str], LayerTime]
    )
    """One layer's time in a step, by peer and artefact; who was measured last comes last."""
    tails: dict[str, float] = field(default_factory=dict[str, float])
    """By artefact: how many layers its output head is worth."""
    held: dict[NodeSession, dict[str, str]] = field(
        default_factory=dict[NodeSession, dict[str, str]]
    )
    """What each node was told to hold: by stage, the pipeline that it is of."""
    holders: Holders = field(init=False)

    def __post_init__(self) -> None:
        self.holders = Holders(self.registry, self.orders)

    @property
    def layer_ms(self) -> dict[tuple[str, str], float]:
        """What layers are dealt by: one's time in a step, by peer and artefact."""
        planned = ((key, time.planned_ms) for key, time in self.times.items())
        return {key: ms for key, ms in planned if ms is not None}

    async def time(self, digest: str, seats: Sequence[Seat], *, only_new: bool = False) -> Timed:
        """Time the stages of a ring; `step_ms` of each becomes what its node usually takes.

        With `only_new` nodes whose time with this model is known are not timed again. The last
        stage's time has the output head in it, which counts as so many layers (ModelShape).
        """
        times = [self._time_of(digest, seat) for seat in seats]
        timed = [
            (seat, time)
            for seat, time in zip(seats, times, strict=True)
            if not only_new or not time.is_known
        ]
        new = tuple(seat.peer for seat, time in timed if time.is_new)
        measured = await self.orders.time([(seat.session, seat.stage) for seat, _ in timed])
        layer_ms: dict[str, float] = {}
        for (seat, time), step_ms in zip(timed, measured, strict=True):
            layer_ms[seat.peer] = step_ms / seat.weight_layers
            time.timed(layer_ms[seat.peer])
        for seat, time in zip(seats, times, strict=True):
            # Operators share by it, so that one bad timing neither costs nor earns them anything.
            usual_ms = time.usual_ms
            seat.step_ms = None if usual_ms is None else usual_ms * seat.weight_layers
        return Timed(layer_ms, new)

    def found_slow(self, digest: str, seat: Seat, step_ms: float) -> None:
        """A stage held up its streams by a step like this one."""
        self._time_of(digest, seat).found_slow(step_ms / seat.weight_layers)

    def _time_of(self, digest: str, seat: Seat) -> LayerTime:
        # Taken out first, so that the order is that of the last measurements.
        found = self.times.pop((seat.peer, digest), None) or LayerTime()
        self.times[seat.peer, digest] = found
        while len(self.times) > LAYER_TIMES_KEPT:
            del self.times[next(iter(self.times))]
        return found

    def forget(self, session: NodeSession) -> None:
        """A node is gone: what it held is no concern of ours."""
        self.held.pop(session, None)
        self.holders.forget(session)
