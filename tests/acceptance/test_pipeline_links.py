"""A link between machines of a pipeline is cut under a paid stream, and both of them live on."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.cable import Cable
from parhelion.testing.islands import Cord, Island, unavailable
from parhelion.testing.processes import UNTIMED, Running, start_pool
from tests.acceptance.members import (
    STREAM,
    STREAM_IDS,
    Members,
    answer,
    members_of,
    prompt,
    receipt_of,
)
from tests.acceptance.test_kill import imbalances
from tests.acceptance.test_pipeline_failures import (
    RATE_MICRO,
    REPAIRED_LIMIT_S,
    SILENT_LIMIT_S,
    available,
    goes_through,
    some_dice,
    some_token,
    verified,
)

WHY_NO_ISLANDS = unavailable()

PAIR_PATH = "/v1/link"
"""What a node asks the coordinator's relay for, to meet another node."""

RELAYED = {"PARHELION_NODE_DIRECT": "never"}

RESUME_WAIT_S = 10.0
"""What a stream that has begun waits for a place (the default of `resume_wait_s`)."""

Strike = Callable[[Cable, random.Random], None]
Whole = list[tuple[str, list[int]]]


class Wired(Members):
    """Members that reach their pool, and one another, by a cable of their own only."""

    def __init__(self, pool: Running, folder: Path) -> None:
        super().__init__(pool, folder)
        self.cables: dict[str, Cable] = {}

    def wire(self, count: int) -> None:
        """See that so many are there and at work."""
        port = int(self.pool.api.rpartition(":")[2])
        while len(self.running) < count:
            cable = Cable(port)
            self.cables[self.join(where=cable.address, env=RELAYED)] = cable
        self.until_settled()

    def close(self) -> None:
        super().close()
        for cable in self.cables.values():
            cable.close()


def one_link_closes(cable: Cable, dice: random.Random) -> None:
    assert cable.sever(PAIR_PATH, dice.randrange(2)) == 1


def one_link_goes_silent(cable: Cable, dice: random.Random) -> None:
    assert cable.silence(PAIR_PATH, dice.randrange(2)) == 1


def every_connection_closes(cable: Cable, _dice: random.Random) -> None:
    assert cable.sever() >= 3, "two links, and the node's own"


def every_connection_goes_silent(cable: Cable, _dice: random.Random) -> None:
    cable.cut()


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Wired]:
    """The machines of a paid pool, each behind a cable."""
    folder = tmp_path_factory.mktemp("wired")
    made = Wired(start_pool(folder / "pool", env=UNTIMED), folder)
    try:
        yield made
    finally:
        made.close()
        assert made.pool.stop() == 0
    assert imbalances(folder / "pool") == ()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("strike", "count", "noticed_s"),
    [
        # Two machines: the very same two have to find together again.
        (one_link_closes, 2, 0.0),
        (one_link_goes_silent, 2, SILENT_LIMIT_S),
        (every_connection_closes, 3, 0.0),
        (every_connection_goes_silent, 3, SILENT_LIMIT_S),
    ],
)
def test_a_paid_stream_outlives_a_link_that_is_cut(
    wired: Wired,
    whole_stories: Whole,
    tmp_path: Path,
    strike: Strike,
    count: int,
    noticed_s: float,
) -> None:
    wired.wire(count)
    assert paths(wired) == {"relay"}
    pool, dice, before = wired.pool, some_dice(), available(wired.pool)
    at, struck, struck_s = some_token(dice), "", 0.0

    def befall() -> None:
        nonlocal struck, struck_s
        struck = dice.choice(wired.stages())
        struck_s = time.monotonic()
        strike(wired.cables[struck], dice)

    told = answer(pool, STREAM, at, befall)
    stall_s = told.stall_s(struck_s)
    print(f"\n{strike.__name__} at {at}: stalled for {stall_s:.2f} s")
    receipt = goes_through(pool, told, whole_stories[-1], tmp_path)
    one, other = receipt["segments"]
    assert struck in [stage["node"] for stage in one["stages"]]
    assert all(stage["signature"] for stage in other["stages"])
    assert available(pool) == before - int(told.usage["cost"])
    assert stall_s < noticed_s + REPAIRED_LIMIT_S
    wired.cables[struck].mend()
    serves_on(wired, whole_stories)


def paths(members: Members) -> set[str]:
    """How the links of the one pipeline go."""
    return {stage["next_link"]["path"] for stage in members.pipeline()["stages"]}


def serves_on(members: Members, whole: Whole) -> None:
    """Nobody was ended: all are here again, and the next prompt is served as ever."""
    members.until_settled()
    again = answer(members.pool, prompt(0))
    assert again.text == whole[0][0] and again.usage["migrations"] == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_where_links_stay_cut_a_stream_ends_in_an_error_and_pays_for_what_came(
    wired: Wired, whole_stories: Whole, tmp_path: Path
) -> None:
    wired.wire(3)
    pool, dice, before = wired.pool, some_dice(), available(wired.pool)
    at, seen, cut_s = some_token(dice), 0, 0.0
    text, id, fault = "", "", dict[str, Any]()
    cut = dice.sample(list(wired.running), 2)
    with contextlib.closing(pool.stream("/v1/chat/completions", STREAM)) as events:
        for seen, event in enumerate(events, start=1):
            if "error" in event:
                fault = event["error"]
                break
            id = event["id"]
            text += "".join(one["delta"].get("content") or "" for one in event["choices"])
            if seen == at:
                cut_s = time.monotonic()
                for peer in cut:
                    # Those that are open are seen to close; those that are tried get nowhere.
                    wired.cables[peer].sever()
                    wired.cables[peer].cut()
    ended_s = time.monotonic() - cut_s
    print(f"\nnobody left at {at}: ended after {ended_s:.2f} s, {fault}")
    assert fault["code"] == "node_lost" and "charged" in fault["hint"]
    assert 0.8 * RESUME_WAIT_S < ended_s < RESUME_WAIT_S + REPAIRED_LIMIT_S
    whole_text, ids = whole_stories[-1]
    assert text and whole_text.startswith(text) and len(text) < len(whole_text)
    receipt, evidence = receipt_of(pool, id)
    delivered = len(evidence["output_ids"])
    assert evidence["output_ids"] == ids[:delivered] and at // 2 < delivered < STREAM_IDS
    prompt_tokens = receipt["prompt_tokens"]
    assert int(receipt["cost_micro"]) == (prompt_tokens + delivered) * RATE_MICRO
    assert available(pool) == before - int(receipt["cost_micro"])
    verified(pool, receipt, evidence, tmp_path)
    for peer in cut:
        wired.cables[peer].mend()
    serves_on(wired, whole_stories)


ISLAND_POOL = {
    **UNTIMED,
    "PARHELION_API_HOST": "0.0.0.0",
    "PARHELION_NODES_ADMIT": "open",
    "PARHELION_LAN_ANNOUNCE": "never",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(WHY_NO_ISLANDS is not None, reason=str(WHY_NO_ISLANDS))
def test_a_stream_outlives_the_cable_between_two_neighbours_and_goes_on_by_the_relay(
    tmp_path: Path, whole_stories: Whole
) -> None:
    with contextlib.ExitStack() as stack:
        hub, one, other = (stack.enter_context(contextlib.closing(Island())) for _ in range(3))
        cords = [Cord(hub, one, 1), Cord(hub, other, 2)]
        between = Cord(one, other, 3)
        # Each reaches by it the address by which the other one reaches the coordinator.
        one.ip("route", "add", "10.77.2.2/32", "via", "10.77.3.2")
        other.ip("route", "add", "10.77.1.2/32", "via", "10.77.3.1")
        stack.enter_context(hub.entered())
        pool = start_pool(tmp_path / "pool", env=ISLAND_POOL)
        members = stack.enter_context(members_of(pool, tmp_path))
        for island, cord in zip((one, other), cords, strict=True):
            with island.entered():
                members.join(where=f"{cord.near_host}:{pool.api.rpartition(':')[2]}")
        members.until_settled()
        assert paths(members) == {"direct"}
        before, at, cut_s = available(pool), some_token(), 0.0

        def befall() -> None:
            nonlocal cut_s
            cut_s = time.monotonic()
            between.cut()

        told = answer(pool, STREAM, at, befall)
        stall_s = told.stall_s(cut_s)
        print(f"\nthe cable between them at {at}: stalled for {stall_s:.2f} s")
        goes_through(pool, told, whole_stories[-1], tmp_path)
        assert available(pool) == before - int(told.usage["cost"])
        assert stall_s < SILENT_LIMIT_S + REPAIRED_LIMIT_S
        serves_on(members, whole_stories)
        assert paths(members) == {"relay"}
    assert imbalances(tmp_path / "pool") == ()
