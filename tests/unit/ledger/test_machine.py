"""Any order of grants, holds, journals, ends and repeats agrees with a model of a few dicts."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from parhelion import ledger as room
from parhelion.ledger import Bill, Entry, Ledger, Mark, Shares, Worked, split
from parhelion.store import Store
from parhelion.words import AssetClass, Grant, Hold, Problem, ProblemCode, Rate

ASSETS = ("PRLX.local", "USDC.local")
USERS = ("acct_a", "acct_b")
NODES = ("node:a", "node:b")
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)

T = TypeVar("T")


class Time:
    """A clock that the rules move."""

    at_ms = 1_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


class Model:
    """The ledger as a few dicts: what every account owns, what is held, what became of holds."""

    def __init__(self) -> None:
        self.owned: dict[tuple[str, str], int] = defaultdict(int)
        self.held: dict[tuple[str, str], int] = defaultdict(int)
        self.state: dict[str, str] = {}
        self.cost: dict[str, int] = {}
        self.mark: dict[str, tuple[int, int]] = {}
        self.grants: dict[str, tuple[str, str, int]] = {}

    def close(self, hold: Hold, state: str) -> None:
        self.state[hold.id] = state
        self.held[hold.account, hold.asset] -= hold.amount_micro


accounts = st.sampled_from(USERS)
assets = st.sampled_from(ASSETS)
amounts = st.integers(0, 3000)
operators = st.lists(
    st.builds(Worked, operator=st.sampled_from(NODES), output_ids=st.integers(0, 9)), max_size=3
)


class Machine(RuleBasedStateMachine):
    """Drives a real ledger on a real file beside the model."""

    holds: Bundle[Hold] = Bundle("holds")

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.time = Time()
        self.model = Model()
        self.requests = 0
        self.path = Path(self.folder.name) / "l.db"
        self.reopen()
        for user in USERS:
            self.run(self.ledger.open_account(user, "user"))

    def reopen(self) -> None:
        opening = Store.open(self.path, room.MIGRATIONS, AssetClass.LOCAL, self.time)
        self.store = self.run(opening)
        self.ledger = Ledger(self.store, self.time, SHARES)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def code(self, work: Coroutine[Any, Any, Any]) -> ProblemCode | None:
        try:
            self.run(work)
        except Problem as problem:
            return problem.code
        return None

    @rule(id=st.sampled_from("pqrstu"), account=accounts, asset=assets, amount=st.integers(1, 9000))
    def grant(self, id: str, account: str, asset: str, amount: int) -> None:
        granting = self.ledger.grant(account, asset, amount, id=id, reason="test")
        first = self.model.grants.get(id)
        if first is None:
            assert self.code(granting) is None
            self.model.grants[id] = (account, asset, amount)
            self.model.owned[account, asset] += amount
            self.model.owned["issuance", asset] -= amount
        else:
            same = first == (account, asset, amount)
            assert self.code(granting) == (None if same else ProblemCode.CONFLICT)

    @rule()
    def grant_again(self) -> None:
        for id, (account, asset, amount) in self.model.grants.items():
            self.run(self.ledger.grant(account, asset, amount, id=id, reason="again"))

    @rule(target=holds, account=accounts, asset=assets, amount=amounts, ttl=st.integers(0, 30))
    def hold(self, account: str, asset: str, amount: int, ttl: int) -> Any:
        self.requests += 1
        rate = Rate(model="m", asset=asset, version=1, prompt_micro=1, completion_micro=1)
        grant = Grant(account=account, key=None, rate=rate, amount_micro=amount, seed=0)
        free = self.model.owned[account, asset] - self.model.held[account, asset]
        taking = self.ledger.hold(
            grant,
            f"req_{self.requests}",
            prompt_tokens=3,
            expires_at_ms=self.time.at_ms + ttl,
        )
        if amount > free:
            assert self.code(taking) == ProblemCode.INSUFFICIENT_CREDIT
            return multiple()
        hold = self.run(taking)
        self.model.held[account, asset] += amount
        self.model.state[hold.id] = "held"
        self.model.mark[hold.id] = (0, 0)
        return hold

    @rule(hold=holds)
    def hold_again(self, hold: Hold) -> None:
        rate = Rate(model="m", asset=hold.asset, version=1, prompt_micro=1, completion_micro=1)
        grant = Grant(
            account=hold.account, key=None, rate=rate, amount_micro=hold.amount_micro, seed=0
        )
        request = hold.id.replace("hold", "req")
        again = self.run(self.ledger.hold(grant, request, prompt_tokens=3, expires_at_ms=0))
        assert (again.id, again.state) == (hold.id, self.model.state[hold.id])

    @rule(hold=holds, part=st.integers(0, 100), worked=operators)
    def post(self, hold: Hold, part: int, worked: list[Worked]) -> None:
        cost = hold.amount_micro * part // 100
        legs = split(cost, SHARES, worked)
        bill = Bill(prompt_tokens=3, completion_tokens=1, cost_micro=cost, legs=legs, reason="stop")
        state = self.model.state[hold.id]
        posting = self.ledger.post(hold, bill)
        if state == "held":
            assert self.run(posting) == hold.amount_micro - cost
            self.model.close(hold, "posted")
            self.model.cost[hold.id] = cost
            self.model.owned[hold.account, hold.asset] -= cost
            for leg in legs:
                self.model.owned[leg.account, hold.asset] += leg.amount_micro
        elif state == "posted" and self.model.cost[hold.id] == cost:
            assert self.run(posting) == hold.amount_micro - cost
        else:
            assert self.code(posting) == ProblemCode.CONFLICT

    @rule(hold=holds, over=st.integers(1, 5))
    def post_more_than_held(self, hold: Hold, over: int) -> None:
        cost = hold.amount_micro + over
        legs = split(cost, SHARES, [])
        bill = Bill(prompt_tokens=3, completion_tokens=1, cost_micro=cost, legs=legs, reason="x")
        assert self.code(self.ledger.post(hold, bill)) == ProblemCode.INTERNAL

    @rule(hold=holds)
    def void(self, hold: Hold) -> None:
        state = self.model.state[hold.id]
        expected = None if state in ("held", "voided") else ProblemCode.CONFLICT
        assert self.code(self.ledger.void(hold, "test")) == expected
        if state == "held":
            self.model.close(hold, "voided")

    @rule(hold=holds)
    def expire(self, hold: Hold) -> None:
        state = self.model.state[hold.id]
        due = hold.expires_at_ms <= self.time.at_ms
        fine = state == "expired" or (state == "held" and due)
        expected = None if fine else ProblemCode.CONFLICT
        assert self.code(self.ledger.expire(hold.id)) == expected
        if state == "held" and due:
            self.model.close(hold, "expired")

    @rule(hold=holds, attempt=st.integers(1, 3), ids=st.integers(0, 20))
    def journal(self, hold: Hold, attempt: int, ids: int) -> None:
        mark = Mark(
            hold=hold.id,
            attempt=attempt,
            accepted_ids=ids,
            completion_tokens=ids,
            operator="node:a",
        )
        self.run(self.ledger.journal([mark]))
        before = self.model.mark[hold.id]
        if self.model.state[hold.id] == "held" and (
            attempt > before[0] or (attempt == before[0] and ids >= before[1])
        ):
            self.model.mark[hold.id] = (attempt, ids)

    @rule(hold=consumes(holds), cost=st.sampled_from([0, 50, 100]))
    def end_in_parallel(self, hold: Hold, cost: int) -> None:
        """Two ends at once: the store takes them in order, and the first one wins."""
        cost = hold.amount_micro * cost // 100
        legs = split(cost, SHARES, [])
        bill = Bill(prompt_tokens=3, completion_tokens=1, cost_micro=cost, legs=legs, reason="stop")
        was = self.model.state[hold.id]

        async def both() -> None:
            await asyncio.gather(
                self.ledger.post(hold, bill),
                self.ledger.void(hold, "x"),
                return_exceptions=True,
            )

        self.run(both())
        if was == "held":
            self.model.close(hold, "posted")
            self.model.owned[hold.account, hold.asset] -= cost
            for leg in legs:
                self.model.owned[leg.account, hold.asset] += leg.amount_micro

    @rule(ms=st.integers(1, 20))
    def pass_time(self, ms: int) -> None:
        self.time.at_ms += ms

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.reopen()

    @invariant()
    def the_books_are_exact(self) -> None:
        assert self.run(self.ledger.audit()) == ()
        for (account, asset), owned in self.model.owned.items():
            balance = self.run(self.ledger.balance(account, asset))
            held = self.model.held[account, asset]
            assert (balance.available_micro, balance.held_micro) == (owned - held, held)
            assert account == "issuance" or balance.available_micro >= 0
        open_holds = {
            one.hold.id: (one.hold.attempt, one.hold.accepted_ids)
            for one in self.run(self.ledger.open_holds())
        }
        still = {id for id, state in self.model.state.items() if state == "held"}
        assert open_holds == {id: self.model.mark[id] for id in still}

    @rule()
    def every_history_adds_up(self) -> None:
        """In pages of any size: each column of the entries is that column of the balance."""
        for account, asset in self.model.owned:
            available, held = 0, 0
            for entry in self.history(account):
                if entry.asset == asset:
                    available += entry.available_micro
                    held += entry.held_micro
            balance = self.run(self.ledger.balance(account, asset))
            assert (available, held) == (balance.available_micro, balance.held_micro), account

    def history(self, account: str) -> list[Entry]:
        found: list[Entry] = []
        before = None
        while page := self.run(self.ledger.history(account, limit=7, before=before)):
            found += page
            before = page[-1].id
        assert len({entry.id for entry in found}) == len(found)
        return found

    def teardown(self) -> None:
        self.every_history_adds_up()
        assert self.run(self.store.verify_chain()) == ()
        self.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()


Machine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyOrder = Machine.TestCase
