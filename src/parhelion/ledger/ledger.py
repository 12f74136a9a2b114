"""The ledger's face: hold, journal, post, void, expire, grant; every change one durable unit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from parhelion.ledger import books, sql
from parhelion.ledger.records import (
    AssetTotals,
    Balance,
    Entry,
    Explained,
    Mark,
    OpenHold,
    Transfer,
)
from parhelion.ledger.rules import (
    ISSUANCE,
    LARGEST_AMOUNT_MICRO,
    MIRROR,
    REQUEST,
    Bill,
    HoldEvent,
    HoldState,
    Shares,
    amount_text,
    class_of,
    next_state,
)
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock, Grant, Hold, Problem, ProblemCode, kin

HISTORY_LIMIT = 1000
"""Entries on one page; more is asked for with `before`."""

RUN_OUT_ROWS = 256
"""Holds that are found run out at one look; the rest at the next."""

_encode_rate = msgspec.json.Encoder().encode


class Ledger:
    """Accounts, holds and transfers in the store (DESIGN 6).

    Every change is idempotent by its id: a repeat finds the first and changes nothing, its `also`
    statements included, because they went with the first. `also` of a caller join the unit; when
    one of them is Refused the whole unit is, and the caller gets that Refused.
    """

    def __init__(self, store: Store, clock: Clock, shares: Shares) -> None:
        self.shares = shares
        self._store = store
        self._clock = clock

    async def open_account(self, account: str, kind: str) -> None:
        """Make the account known; again changes nothing."""
        await self._store.commit([self.opening(account, kind)])

    def opening(self, account: str, kind: str) -> Statement:
        """`open_account` as a statement of the caller's unit."""
        return Statement("account.open", sql.OPEN_ACCOUNT, (account, kind, self._clock.now_ms()))

    async def grant(
        self,
        account: str,
        asset: str,
        amount_micro: int,
        *,
        id: str,
        reason: str,
        also: Sequence[Statement] = (),
    ) -> None:
        """Credit an account out of issuance, once for each id."""
        _check_amount(amount_micro, least_micro=1)
        self._check_class(asset)
        at_ms = self._clock.now_ms()
        row = (id, ISSUANCE, account, asset, amount_micro, "grant", None, None, at_ms, reason)
        try:
            await self._store.commit([Statement("grant", sql.TRANSFER, row, rows=1), *also])
        except Refused as refused:
            if refused.name == "grant" and refused.kind == "foreign":
                raise _no_account(account) from refused
            if refused.name != "grant" or refused.kind != "unique":
                raise
            first = books.transfer(await self._store.read(sql.GET_TRANSFER, (id,)))
            same = (first.credit, first.asset, first.amount_micro, first.kind)
            if same != (account, asset, amount_micro, "grant"):
                raise Problem(ProblemCode.CONFLICT, f"{id} is another transfer") from refused

    def deposit(
        self, account: str, asset: str, amount_micro: int, *, mirror: str, id: str, memo: str
    ) -> tuple[Statement, ...]:
        """Credit what came in from outside, in the caller's unit; once for each id.

        It is debited to an account that mirrors the place it lies at: that account's balance below
        zero is what lies there, to the unit. Refused "deposit" where this id was credited before.
        """
        _check_amount(amount_micro, least_micro=1)
        self._check_class(asset)
        at_ms = self._clock.now_ms()
        source = f"{MIRROR}{mirror}"
        row = (id, source, account, asset, amount_micro, "deposit", None, None, at_ms, memo)
        return (
            Statement("mirror.open", sql.OPEN_MIRROR, (source, at_ms)),
            Statement("deposit", sql.TRANSFER, row, rows=1),
        )

    @staticmethod
    def deposited_for(key: str, deposit: str) -> Statement:
        """That a deposit was made for this key, in the unit that books it."""
        return Statement("deposit.key", sql.KEY_DEPOSIT, (key, deposit))

    async def hold(
        self,
        grant: Grant,
        request: str,
        *,
        prompt_tokens: int,
        expires_at_ms: int,
        first: Sequence[Statement] = (),
        also: Sequence[Statement] = (),
    ) -> Hold:
        """Set the grant's amount aside for one request; Problem INSUFFICIENT_CREDIT otherwise.

        A hold of 0 needs no credits and is always taken. A repeat returns the hold as it now is.
        `first` takes effect before it, in the same unit: the deposit that it is paid from.
        """
        _check_amount(grant.amount_micro, least_micro=0)
        hold = Hold(
            id=kin("hold", request),
            account=grant.account,
            key=grant.key,
            asset=grant.rate.asset,
            amount_micro=grant.amount_micro,
            state=HoldState.HELD,
            accepted_ids=0,
            attempt=0,
            expires_at_ms=expires_at_ms,
        )
        rate = _encode_rate(grant.rate).decode()
        at_ms = self._clock.now_ms()
        terms = (hold.id, request, hold.account, hold.key, hold.asset, hold.amount_micro)
        row = (*terms, rate, prompt_tokens, at_ms, expires_at_ms)
        try:
            await self._store.commit([*first, Statement("hold", sql.HOLD, row, rows=1), *also])
        except Refused as refused:
            if refused.name != "hold":
                raise
            if refused.kind == "unique":
                return await self._first_hold(request, hold)
            raise _why_not_held(refused, hold) from refused
        return hold

    async def journal(self, marks: Sequence[Mark]) -> None:
        """Note how far requests have been delivered; goes forward only, and only while held."""
        if marks:
            await self._store.commit([_journal_line(mark) for mark in marks])

    async def post(self, hold: Hold, bill: Bill, also: Sequence[Statement] = ()) -> int:
        """Charge the bill's cost and share it out; the rest is returned, and how much it was.

        The cost is never more than was held. Posting the same cost again changes nothing.
        """
        _check_bill(hold, bill)
        cost_micro = bill.cost_micro
        closing = (hold.id, cost_micro, bill.completion_tokens, bill.reason, self._clock.now_ms())
        unit = [Statement("post", sql.POST, closing, rows=1)]
        if bill.legs:
            unit.append(_shares(hold.id, bill))
        try:
            await self._store.commit([*unit, *also])
        except Refused as refused:
            if refused.name != "post":
                raise
            if refused.kind != "rows":
                raise _never(f"{hold.id}: {refused}") from refused
            closed = await self._closed(hold.id, HoldEvent.POST)
            if closed.cost_micro != cost_micro:
                raise Problem(
                    ProblemCode.CONFLICT,
                    f"{hold.id} was posted at {closed.cost_micro}, not {cost_micro}",
                ) from refused
        return hold.amount_micro - cost_micro

    async def withdraw(
        self, hold: Hold, *, mirror: str, memo: str, also: Sequence[Statement] = ()
    ) -> None:
        """Post the whole hold to the account that mirrors a place outside: `deposit`'s opposite.

        For what has left for there, named by `memo`. The same again changes nothing.
        """
        _check_amount(hold.amount_micro, least_micro=1)
        at_ms = self._clock.now_ms()
        place = f"{MIRROR}{mirror}"
        unit = (
            Statement("mirror.open", sql.OPEN_MIRROR, (place, at_ms)),
            Statement("post", sql.POST, (hold.id, hold.amount_micro, 0, memo, at_ms), rows=1),
            Statement("withdrawal", sql.WITHDRAW, (f"{hold.id}.0", place, memo, hold.id), rows=1),
        )
        try:
            await self._store.commit([*unit, *also])
        except Refused as refused:
            if refused.name != "post" or refused.kind != "rows":
                raise
            closed = await self._closed(hold.id, HoldEvent.POST)
            if closed.reason != memo:
                raise Problem(
                    ProblemCode.CONFLICT, f"{hold.id} was posted for {closed.reason}, not {memo}"
                ) from refused

    async def void(self, hold: Hold, reason: str, also: Sequence[Statement] = ()) -> None:
        """Give the whole hold back; nothing is charged. Again changes nothing."""
        try:
            await self._store.commit([self.voiding(hold.id, reason), *also])
        except Refused as refused:
            if refused.name != "void" or refused.kind != "rows":
                raise
            await self._closed(hold.id, HoldEvent.VOID)

    def voiding(self, hold_id: str, reason: str) -> Statement:
        """`void` as a statement of the caller's unit; Refused "void" where it was closed before."""
        return Statement("void", sql.VOID, (hold_id, reason, self._clock.now_ms()), rows=1)

    async def expire(self, hold_id: str) -> None:
        """Give back a hold whose time has passed; Problem CONFLICT while it has not."""
        closing = (hold_id, self._clock.now_ms())
        try:
            await self._store.commit([Statement("expire", sql.EXPIRE, closing, rows=1)])
        except Refused as refused:
            closed = await self._closed(hold_id, HoldEvent.EXPIRE)
            if closed.hold.state == HoldState.HELD:
                raise Problem(ProblemCode.CONFLICT, f"{hold_id} has not run out") from refused

    async def balance(self, account: str, asset: str) -> Balance:
        """What the account has of the asset; nothing yet is a balance of 0."""
        rows = await self._store.read(sql.BALANCE, (account, asset))
        if rows:
            return books.balance(rows[0])
        return Balance(account=account, asset=asset, available_micro=0, held_micro=0)

    async def balances(self, account: str) -> tuple[Balance, ...]:
        """What the account has, one balance an asset it ever had."""
        return tuple(map(books.balance, await self._store.read(sql.BALANCES, (account,))))

    async def totals(self) -> tuple[AssetTotals, ...]:
        """What all users and all operators have, by asset; one look at every balance."""
        return tuple(map(books.asset_totals, await self._store.read(sql.TOTALS)))

    async def history(
        self, account: str, *, limit: int, before: str | None = None, key: str | None = None
    ) -> tuple[Entry, ...]:
        """The account's entries, newest first, at most `limit`, older than entry `before`.

        With a `key` only what was spent with it and deposited for it.
        """
        at_ms, place, id = books.cursor(before)
        page = max(1, min(limit, HISTORY_LIMIT))
        asked, whose = (sql.HISTORY, account) if key is None else (sql.KEY_HISTORY, key)
        rows = await self._store.read(asked, (whose, at_ms, place, id, page))
        return tuple(map(books.entry, rows))

    async def explain(
        self, request: str, account: str | None = None, *, key: str | None = None
    ) -> Explained:
        """The hold of one request, what became of it, and who got what.

        Problem NOT_FOUND, also where it is another account's or key's than the one that is named.
        """
        rows = await self._store.read(sql.GET_HOLD, (kin("hold", request),))
        row = books.hold_row(rows[0]) if rows else None
        ours = row is not None and row.request == request
        if row is None or not ours or account not in (None, row.hold.account):
            raise _no_hold(request)
        if key is not None and key != row.hold.key:
            raise _no_hold(request)
        legs = await self._store.read(sql.TRANSFERS_OF_HOLD, (kin("hold", request),))
        return books.explained(row, legs)

    async def sources(
        self, account: str, asset: str, *, until_ms: int, limit: int
    ) -> tuple[Transfer, ...]:
        """The grants and deposits that the account had up to that moment, newest first."""
        rows = await self._store.read(sql.SOURCES, (account, asset, until_ms, limit))
        return tuple(books.transfer([row]) for row in rows)

    async def open_holds(self) -> tuple[OpenHold, ...]:
        """Every hold of a request that nothing has closed, oldest first: all recovery needs.

        Those of withdrawals and sessions are not among them: they outlive a process.
        """
        rows = await self._store.read(sql.OPEN_HOLDS, (REQUEST,))
        return tuple(books.open_hold(books.hold_row(row)) for row in rows)

    async def run_out(self) -> tuple[str, ...]:
        """Open holds of other kinds than requests' whose time has passed, for `expire`."""
        row = (REQUEST, self._clock.now_ms(), RUN_OUT_ROWS)
        return tuple(str(row[0]) for row in await self._store.read(sql.RUN_OUT, row))

    async def audit(self) -> tuple[str, ...]:
        """Every imbalance between balances, transfers and holds; empty: the books are exact."""
        return tuple(str(row[0]) for row in await self._store.read(sql.AUDIT))

    async def _first_hold(self, request: str, wanted: Hold) -> Hold:
        row = await self._row(wanted.id)
        first = row.hold
        terms = (first.account, first.key, first.asset, first.amount_micro, row.request)
        if terms != (wanted.account, wanted.key, wanted.asset, wanted.amount_micro, request):
            raise Problem(ProblemCode.CONFLICT, f"{wanted.id} was taken on other terms")
        return first

    async def _closed(self, hold_id: str, event: HoldEvent) -> books.HoldRow:
        """The hold that an event found closed already; Problem CONFLICT if otherwise than by it."""
        row = await self._row(hold_id)
        next_state(HoldState(row.hold.state), event)
        return row

    async def _row(self, hold_id: str) -> books.HoldRow:
        rows = await self._store.read(sql.GET_HOLD, (hold_id,))
        if not rows:
            raise Problem(ProblemCode.NOT_FOUND, f"no hold {hold_id}")
        return books.hold_row(rows[0])

    def _check_class(self, asset: str) -> None:
        try:
            fits = class_of(asset) == self._store.asset_class
        except ValueError:
            fits = False
        if not fits:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"{asset} is not an asset of class {self._store.asset_class}",
                hint="a data folder holds money of one class only",
                param="asset",
            )


def _journal_line(mark: Mark) -> Statement:
    place = (mark.hold, mark.attempt, mark.accepted_ids, mark.completion_tokens, mark.operator)
    return Statement("journal", sql.JOURNAL, place)


def _shares(hold_id: str, bill: Bill) -> Statement:
    params: list[str | int] = []
    for number, leg in enumerate(bill.legs):
        params += (f"{hold_id}.{number}", leg.account, leg.amount_micro, leg.role)
    params.append(hold_id)
    return Statement("shares", sql.shares_of(len(bill.legs)), tuple(params), rows=len(bill.legs))


def _check_bill(hold: Hold, bill: Bill) -> None:
    if not 0 <= bill.cost_micro <= hold.amount_micro:
        raise _never(f"a bill of {bill.cost_micro} on {hold.id} of {hold.amount_micro}")
    if sum(leg.amount_micro for leg in bill.legs) != bill.cost_micro:
        raise _never(f"the legs of the bill on {hold.id} do not add up to its cost")
    if any(leg.amount_micro <= 0 for leg in bill.legs):
        raise _never(f"a leg of the bill on {hold.id} moves nothing")


def _check_amount(amount_micro: int, *, least_micro: int) -> None:
    if not least_micro <= amount_micro <= LARGEST_AMOUNT_MICRO:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"an amount is {least_micro} to {LARGEST_AMOUNT_MICRO} base units",
            hint="1.000000 is 1000000 base units",
            param="amount",
        )


def _why_not_held(refused: Refused, hold: Hold) -> Problem:
    if refused.kind == "foreign":
        return _no_account(hold.account)
    return Problem(
        ProblemCode.INSUFFICIENT_CREDIT,
        f"this can cost {amount_text(hold.amount_micro, hold.asset)}: more than is available",
        hint="ask for fewer tokens with max_tokens, or add credits",
    )


def _no_hold(request: str) -> Problem:
    return Problem(
        ProblemCode.NOT_FOUND,
        f"no hold of {request[:64]}",
        hint="a request that failed before its first byte may have left none",
    )


def _no_account(account: str) -> Problem:
    return Problem(
        ProblemCode.NOT_FOUND,
        f"no account {account[:64]}",
        hint="account ids start with acct_; making a key without one opens a new account",
        param="account",
    )


def _never(message: str) -> Problem:
    return Problem(ProblemCode.INTERNAL, message, hint="this is a fault of ours: please report it")
