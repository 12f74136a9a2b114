"""GET and PUT /v1/setup: what this pool is to be, what it lacks, and how a node joins it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from litestar import Request, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.admin import admin_body, check_class
from parhelion.api.models import Served, rate_body
from parhelion.api.rooms import Rooms, is_owner, query_of
from parhelion.api.setup_rules import Change, Standing, decide, missing, next_start, next_tiers
from parhelion.api.setup_shapes import NewSetup, SetupBody, TierBody
from parhelion.api.wire import json_reply
from parhelion.config import pool_asset
from parhelion.setup import Choice, join_command
from parhelion.words import Problem, ProblemCode, Tier

log = logging.getLogger(__name__)


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the set-up; to change it needs the admin key."""
    changing = Turn()

    @get("/v1/setup", name="setup")
    async def read(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return json_reply(await _shown(rooms, told_all=is_owner(scope, rooms)))

    @put("/v1/setup", name="setup.change", status_code=200)
    async def change(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, NewSetup)
        await changing.whole(_changed(body, rooms, changing))
        return json_reply(await _shown(rooms, told_all=True))

    return [read, change]


async def _changed(body: NewSetup, rooms: Rooms, changing: Turn) -> None:
    with changing:
        await _apply(decide(body, _standing(rooms)), rooms)


class Turn:
    """One change at a time: two at once could leave half of each. `with turn` or Problem."""

    def __init__(self) -> None:
        self._taken = False
        # At most one that changes, and those that are refused in their first step.
        self._tasks: set[asyncio.Task[None]] = set()

    async def whole(self, change: Coroutine[Any, Any, None]) -> None:
        """Wait for a change that goes on to its end whether or not its sender stays.

        Else whoever leaves between the file and the prices would leave the one without the other.
        """
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody hears any more how it ends.
            task.add_done_callback(_tell)
            raise

    def __enter__(self) -> None:
        if self._taken:
            raise Problem(
                ProblemCode.CONFLICT,
                "another set-up is being written just now",
                hint="look at GET /v1/setup, and send yours again if it still holds",
            )
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False


def _tell(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.error("a set-up whose sender had left was not taken", extra={"cause": str(error)})


def _standing(rooms: Rooms) -> Standing:
    return Standing(
        book=rooms.setup,
        model=_default(rooms),
        nodes=rooms.coordinator.health().need,
        private=rooms.catalogue.pricing == "free",
        resolve=lambda name: rooms.catalogue.resolve(name).card.id,
        check_asset=lambda asset: check_class(asset, rooms),
    )


async def _apply(change: Change, rooms: Rooms) -> None:
    """The file first, for a start goes by it; then all prices in one unit; then what cannot fail.

    A process killed between the first two does at its next start what the file says, and the same
    words sent again set the rates. A price that the store refuses leaves all as it was.
    """
    before = rooms.setup.choice
    await rooms.setup.keep(change.choice)
    try:
        await _price(change, rooms)
    except Exception as error:
        await _put_back(before, rooms)
        if not isinstance(error, Problem):
            raise
        raise Problem(
            error.code,
            f"{error.message}; nothing of the set-up was taken",
            hint=error.hint,
            param=error.param,
            retry_after_s=error.retry_after_s,
        ) from error
    if change.model is not None:
        rooms.catalogue.put_first([change.model])
        rooms.coordinator.catalogue_changed()
    if change.nodes is not None:
        rooms.coordinator.want(change.nodes)
    _sell(rooms)


def _sell(rooms: Rooms) -> None:
    """What the set-up now says is sold at a fixed price, where payments on networks are taken."""
    if rooms.shop is None:
        return
    start = rooms.setup.start
    rooms.shop.checkout.sell(_shelf(start.tiers, private=rooms.catalogue.pricing == "free"))


def _shelf(named: Sequence[Tier], *, private: bool) -> tuple[Tier, ...]:
    # Loaded here: a coordinator that is paid on no network never comes this way.
    from parhelion.payments.x402.prices import shelf

    return shelf(named, private=private)


async def _price(change: Change, rooms: Rooms) -> None:
    assert change.choice.model is not None
    prices: Mapping[str, tuple[int, int]] = {}
    if change.pricing is not None:
        prices = _prices(rooms)
    if change.pricing == "free":
        prices = dict.fromkeys(prices, (0, 0))
    own = {rate.asset: (int(rate.prompt), int(rate.completion)) for rate in change.rates}
    await rooms.catalogue.turn(change.pricing, prices, own={change.choice.model: own})


async def _put_back(before: Choice | None, rooms: Rooms) -> None:
    """Keep again what was kept; Problem that says what is half done where the disk refuses."""
    try:
        await rooms.setup.keep(before)
    except Problem as problem:
        raise Problem(
            problem.code,
            "the prices could not be changed, and setup.json not put back: it holds what you sent, "
            "and the next start goes by it",
            hint="see whether the data folder's disk is full, and send the set-up again",
        ) from problem


def _prices(rooms: Rooms) -> Mapping[str, tuple[int, int]]:
    """What the settings say that models cost, in all that is taken for them."""
    money, terms = rooms.config.money, rooms.config.x402
    own = pool_asset(money.asset_class)
    prices = {own: (money.prompt_rate_micro, money.completion_rate_micro)}
    if rooms.shop is not None:
        sold = (terms.prompt_rate_micro, terms.completion_rate_micro)
        prices[rooms.shop.checkout.asset] = sold
    return prices


async def _shown(rooms: Rooms, *, told_all: bool) -> SetupBody:
    coordinator, catalogue, shop = rooms.coordinator, rooms.catalogue, rooms.shop
    health, model = coordinator.health(), _default(rooms)
    tiers = () if shop is None else shop.checkout.tiers
    join = None
    if told_all and rooms.setup.join is not None:
        join = join_command(await rooms.setup.join(), rooms.setup.told.models)
    waiting = next_tiers(rooms.setup, tiers) if told_all else None
    if told_all and shop is not None and catalogue.pricing == "free":
        # They are sold as soon as it is paid again: shown, so that they can be changed with that.
        waiting = _shelf(rooms.setup.start.tiers, private=False)
    return SetupBody(
        model=model,
        models=tuple(one.card.id for one in catalogue.models()),
        nodes_wanted=health.need,
        nodes_joined=health.nodes,
        missing=missing(
            ready=health.nodes,
            wanted=health.need,
            waits=not coordinator.takes_prompts(),
            model=model,
            available=model is not None and Served(coordinator).available(model),
            why=None if model is None else coordinator.why_not(model),
            nodes=coordinator.nodes(),
        ),
        paid=shop is not None,
        private=catalogue.pricing == "free",
        tiers=_shown_tiers(tiers, rooms),
        rates=() if model is None else tuple(rate_body(rate) for rate in catalogue.rates(model)),
        next_start=next_start(rooms.setup, sells=shop is not None, tiers=tiers),
        next_tiers=None if waiting is None else _shown_tiers(waiting, rooms),
        join=join,
        peer=rooms.node_key.peer,
    )


def _default(rooms: Rooms) -> str | None:
    first = next(iter(rooms.catalogue.models()), None)
    return None if first is None else first.card.id


def _shown_tiers(tiers: Sequence[Tier], rooms: Rooms) -> tuple[TierBody, ...]:
    if not tiers:
        return ()
    from parhelion.payments.x402.networks import asset_of

    asset = asset_of(rooms.config.money.asset_class)
    return tuple(_tier(tier, asset) for tier in tiers)


def _tier(tier: Tier, asset: str) -> TierBody:
    return TierBody(
        name=tier.name,
        asset=asset,
        price=str(tier.price_micro),
        max_tokens=tier.max_tokens,
        max_prompt_tokens=tier.max_prompt_tokens,
        model=tier.model or None,
        temperature=tier.temperature,
    )
