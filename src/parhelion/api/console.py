"""GET /v1/console: the pool at one moment, each second of it, its last hour, and its books."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.chain_shapes import told
from parhelion.api.console_shapes import AssetBody, ConsoleHistory, MoneyBody, SplitBody
from parhelion.api.follow import Followed
from parhelion.api.parse import invalid
from parhelion.api.rooms import Rooms, query_of, require_admin
from parhelion.api.wire import NO_STORE, Reply, Visit, json_reply
from parhelion.coordinator import STEP_S
from parhelion.identity import Caller
from parhelion.words import DECIMALS

if TYPE_CHECKING:
    from parhelion.coordinator.console import ConsoleReader
    from parhelion.ledger import AssetTotals, Shares

MINUTES_LIMIT = 60
"""What is kept: `traffic.POINTS_LIMIT`."""

MONEY_KEPT_S = 1.0
"""All balances are added up for it: once a second, however many consoles are open."""

BP_A_PERCENT = 100


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the console; its money is for the admin key."""
    console = rooms.coordinator.console
    books = Books(rooms)

    @get("/v1/console", name="console")
    async def snapshot(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return Reply(200, console.snapshot(), [NO_STORE])

    @get("/v1/console/stream", name="console.stream")
    async def stream(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return Followed(rooms, follow, framed)

    @get("/v1/console/history", name="console.history")
    async def history(scope: Scope) -> ASGIApp:
        minutes = _minutes(query_of(scope, ("minutes",)).get("minutes"))
        since_ms = rooms.clock.now_ms() - minutes * 60_000
        return json_reply(ConsoleHistory(step_s=STEP_S, points=console.points(since_ms)))

    @get("/v1/console/money", name="console.money")
    async def money(scope: Scope) -> ASGIApp:
        require_admin(scope, rooms)
        query_of(scope, ())
        return json_reply(await books.read())

    def follow(_visit: Visit, caller: Caller) -> ConsoleReader:
        return console.follow(caller)

    return [snapshot, stream, history, money]


class Books:
    """The books in total, read at most once a MONEY_KEPT_S."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._kept: tuple[tuple[AssetTotals, ...], float] | None = None

    async def read(self) -> MoneyBody:
        """As they are now, or were a moment ago."""
        rooms, now_s = self._rooms, self._rooms.clock.monotonic_s()
        if self._kept is None or now_s - self._kept[1] >= MONEY_KEPT_S:
            self._kept = (await rooms.ledger.totals(), now_s)
        split = _split(rooms.ledger.shares)
        return MoneyBody(
            assets=tuple(_asset(one, split) for one in self._kept[0]),
            x402=None if rooms.shop is None else told(await rooms.shop.tally.read()),
        )


def framed(snapshot: bytes) -> Iterable[bytes]:
    """One event, without an id: the snapshot says its type, and makes those before it void."""
    return (b"data: " + snapshot + b"\n\n",)


def _minutes(text: str | None) -> int:
    if text is None:
        return MINUTES_LIMIT
    is_count = text.isascii() and text.isdigit() and len(text) <= 2
    if not (is_count and 1 <= int(text) <= MINUTES_LIMIT):
        raise invalid("minutes", f"expected an integer from 1 to {MINUTES_LIMIT}.")
    return int(text)


def _asset(totals: AssetTotals, split: SplitBody) -> AssetBody:
    return AssetBody(
        asset=totals.asset,
        decimals=DECIMALS,
        outstanding=str(totals.users_micro),
        held=str(totals.held_micro),
        operators=str(totals.operators_micro),
        split=split,
    )


def _split(shares: Shares) -> SplitBody:
    return SplitBody(
        operators_bp=BP_A_PERCENT * shares.operators_percent,
        treasury_bp=BP_A_PERCENT * shares.treasury_percent,
        infrastructure_bp=BP_A_PERCENT * shares.infrastructure_percent,
    )
