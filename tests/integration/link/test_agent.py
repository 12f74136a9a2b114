"""Agents over real sockets: joining, refusals, reconnection, drain, and many jobs at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parhelion.bootstrap import SystemClock
from parhelion.engines import EngineEvent
from parhelion.identity import NodeKey
from parhelion.link import (
    Bye,
    Cut,
    Drain,
    Heartbeat,
    JobFailed,
    Open,
    Signed,
    Standing,
    Steps,
    Welcome,
    parse_address,
)
from parhelion.node import Agent, AgentState
from parhelion.node.agent import LONGEST_WAIT_S
from parhelion.proof import chain, segment_holds
from parhelion.testing import EchoEngine
from parhelion.testing.echo import Trail
from parhelion.words import Job, Problem, ProblemCode

DIGEST = "ab" * 32
N_VOCAB = 1000
OPENING = b"o" * 32


def make_job(name: str, *, max_tokens: int = 20, output: tuple[int, ...] = ()) -> Job:
    return Job(
        job=name,
        attempt=1,
        digest=DIGEST,
        cache_scope="a",
        prompt_ids=tuple(name.encode()),
        output_ids=output,
        seed=7,
        max_tokens=max_tokens,
        opening=OPENING,
    )


def expected(job: Job) -> list[int]:
    """What the echo engine must say, from the first id on."""
    trail, ids = Trail(job.prompt_ids, job.seed, N_VOCAB, frozenset()), []
    for _ in range(job.max_tokens):
        ids.append(trail.next())
        trail.add(ids[-1])
    return ids


class Hosted:
    """An agent that runs, and the states it went through."""

    def __init__(self, address: str, engine: EchoEngine, key: NodeKey) -> None:
        self.states: list[AgentState] = []
        self.agent = Agent(
            key,
            parse_address(address),
            {DIGEST: engine},
            name="tester",
            clock=SystemClock(),
            on_state=self.states.append,
            jitter=lambda: 0.0,
        )
        self.run = asyncio.create_task(self.agent.run())

    async def until(self, state: str, deadline_s: float = 10.0) -> AgentState:
        async with asyncio.timeout(deadline_s):
            while self.agent.state.state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return self.agent.state


@asynccontextmanager
async def hosted(
    address: str, *, slots: int = 16, tokens_per_s: float = 0.0, key: NodeKey | None = None
) -> AsyncIterator[Hosted]:
    engine = EchoEngine(slots=slots, tokens_per_s=tokens_per_s, n_vocab=N_VOCAB, digest=DIGEST)
    made = Hosted(address, engine, key or NodeKey(b"n" * 32))
    try:
        yield made
    finally:
        made.run.cancel()
        await asyncio.wait([made.run])


class Pool:
    """A coordinator's script: welcomes, opens jobs, keeps what it hears."""

    def __init__(self, door: Any, take_in: Callable[..., Any]) -> None:
        self.door = door
        self.registers: list[Any] = []
        self.ids: dict[str, list[int]] = {}
        self.heard: list[Any] = []
        self.steps_frames = 0
        self.news = asyncio.Event()
        self.heartbeat_s = 2.0
        self._take_in = take_in
        door.script = self.attend

    async def attend(self, carrier: Any) -> None:
        self.registers.append(await self._take_in(carrier, self.heartbeat_s))
        while True:
            message = await carrier.receive()
            if isinstance(message, Steps):
                self.steps_frames += 1
                for step in message.steps:
                    ids = self.ids.setdefault(step.job, [])
                    assert not step.ids or step.start == len(ids)
                    ids.extend(step.ids)
            else:
                self.heard.append(message)
            self.news.set()

    async def send(self, message: Any) -> None:
        await self.door.carriers[-1].send(message)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, condition: Callable[[], Any], deadline_s: float = 10.0) -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def pool(door: Any, take_in: Callable[..., Any]) -> Pool:
    return Pool(door, take_in)


async def test_sixteen_jobs_at_once_give_exactly_their_ids_and_signed_chains(pool: Pool) -> None:
    jobs = [make_job(f"job-{n}", max_tokens=200) for n in range(16)]
    async with hosted(pool.door.address) as node:
        state = await node.until("ready")
        assert (state.coordinator, state.accepted) == (pool.door.key.peer, (DIGEST,))
        for job in jobs:
            await pool.send(Open(job=job))
        await pool.until(lambda: len(pool.of(Signed)) == 16)
    card = pool.registers[0].card
    assert (card.slots, card.backend, card.name) == (16, "echo", "tester")
    segments = {signed.segment.job: signed.segment for signed in pool.of(Signed)}
    for job in jobs:
        assert pool.ids[job.job] == expected(job)
        segment = segments[job.job]
        assert segment_holds(segment) and segment.to == 200
        assert segment.head == chain(OPENING, job.prompt_ids, expected(job)).hex()
    # 3,200 steps of 16 streams in step with each other: far fewer frames than steps.
    assert pool.steps_frames < 3200 / 8


async def test_a_resumed_job_goes_on_with_the_same_ids(pool: Pool) -> None:
    whole = expected(make_job("job", max_tokens=20))
    async with hosted(pool.door.address) as node:
        await node.until("ready")
        pool.ids["job"] = whole[:8]
        await pool.send(Open(job=make_job("job", output=tuple(whole[:8]))))
        await pool.until(lambda: pool.of(Signed))
    assert pool.ids["job"] == whole
    segment = pool.of(Signed)[0].segment
    assert (segment.start, segment.to) == (8, 20)


async def test_over_the_slots_a_job_is_refused_as_overloaded(pool: Pool) -> None:
    async with hosted(pool.door.address, slots=2, tokens_per_s=50) as node:
        await node.until("ready")
        for n in range(3):
            await pool.send(Open(job=make_job(f"job-{n}")))
        await pool.until(lambda: pool.of(JobFailed))
        assert [(f.job, f.code) for f in pool.of(JobFailed)] == [("job-2", "overloaded")]
        await pool.until(lambda: len(pool.of(Signed)) == 2)


async def test_a_cut_in_the_middle_is_signed_at_n(pool: Pool) -> None:
    job = make_job("job", max_tokens=1000)
    async with hosted(pool.door.address, tokens_per_s=200) as node:
        await node.until("ready")
        await pool.send(Open(job=job))
        await pool.until(lambda: len(pool.ids.get("job", [])) >= 10)
        await pool.send(Cut(job="job", attempt=1, n=7))
        await pool.until(lambda: pool.of(Signed))
        segment = pool.of(Signed)[0].segment
        assert segment.to == 7 and segment_holds(segment)
        assert segment.head == chain(OPENING, job.prompt_ids, expected(job)[:7]).hex()
        made = len(pool.ids["job"])
        await asyncio.sleep(0.1)
        assert len(pool.ids["job"]) == made < job.max_tokens


async def test_drain_finishes_the_running_job_and_refuses_new_ones(pool: Pool) -> None:
    async with hosted(pool.door.address, tokens_per_s=40) as node:
        await node.until("ready")
        # A second of it: what follows must come in its midst.
        await pool.send(Open(job=make_job("job", max_tokens=40)))
        await pool.until(lambda: pool.ids.get("job"))
        draining = asyncio.create_task(node.agent.drain("maintenance"))
        await node.until("draining")
        await pool.send(Open(job=make_job("late")))
        await pool.until(lambda: pool.of(Bye))
        await asyncio.wait_for(draining, 20)
        await asyncio.wait_for(node.run, 5)
    assert pool.ids["job"] == expected(make_job("job", max_tokens=40))
    assert pool.of(Signed)[0].segment.to == 40
    assert [(f.job, f.code) for f in pool.of(JobFailed)] == [("late", "draining")]
    assert pool.of(Bye)[0].message == "maintenance"
    assert node.states[-1] == AgentState(state="gone", reason="maintenance")


@pytest.mark.parametrize("code", [ProblemCode.LINK_REFUSED, ProblemCode.FORBIDDEN])
async def test_a_node_that_is_refused_stops_with_cause_and_hint(door: Any, code: str) -> None:
    async def refuse(carrier: Any) -> None:
        await carrier.receive()
        await carrier.close(Bye(code=code, message="this key was revoked", hint="ask the owner"))

    door.script = refuse
    async with hosted(door.address) as node:
        with pytest.raises(Problem) as caught:
            await asyncio.wait_for(node.run, 5)
    assert (caught.value.message, caught.value.hint) == ("this key was revoked", "ask the owner")
    assert node.states[-1] == AgentState(state="gone", reason="this key was revoked")
    assert len(door.carriers) == 1


async def test_its_standing_is_part_of_its_state_until_the_session_ends(pool: Pool) -> None:
    async with hosted(pool.door.address) as node:
        await node.until("ready")
        for paid, state, reason in (
            (False, "measuring", "compared\x1b[2J"),
            (False, "refused", "noise"),
            (False, None, "an older coordinator says no state"),
            (True, "ready", None),
        ):
            await pool.send(Standing(paid_work=paid, reason=reason, state=state))
        async with asyncio.timeout(5):
            while node.agent.state.standing != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await pool.door.carriers[-1].abort()
        await node.until("joining")
    shown = [(one.shown, one.reason) for one in node.states if one.state == "ready"]
    assert shown == [
        ("ready", None),
        ("measuring", "compared [2J"),
        ("refused", "noise"),
        ("refused", "an older coordinator says no state"),
        ("ready", None),
    ]
    joining = next(one for one in node.states if one.state == "joining")
    assert joining.standing is None


async def test_a_drain_from_the_coordinator_ends_the_session_and_not_the_node(pool: Pool) -> None:
    job = make_job("job", max_tokens=1000)
    async with hosted(pool.door.address, tokens_per_s=50) as node:
        await node.until("ready")
        await pool.send(Open(job=job))
        await pool.until(lambda: pool.ids.get("job"))
        await pool.send(Drain(reason="new fan", deadline_s=0.2))
        await pool.until(lambda: pool.of(JobFailed))
        assert pool.of(JobFailed)[0].code == "draining", "handed back at the deadline"
        await pool.until(lambda: len(pool.registers) == 2)
        assert not node.run.done(), "it comes back when it is welcome again"
    drained = [one.reason for one in node.states if one.state == "draining"]
    assert drained == ["new fan"]


async def test_a_node_banned_while_it_works_stops_too(pool: Pool) -> None:
    async with hosted(pool.door.address) as node:
        await node.until("ready")
        await pool.door.carriers[0].close(Bye(code="link_refused", message="banned"))
        with pytest.raises(Problem, match="banned"):
            await asyncio.wait_for(node.run, 5)


async def test_a_second_process_with_the_same_key_stops_the_first(pool: Pool) -> None:
    async with hosted(pool.door.address) as node:
        await node.until("ready")
        await pool.door.carriers[0].close(Bye(code="conflict", message="replaced"))
        with pytest.raises(Problem, match="replaced") as caught:
            await asyncio.wait_for(node.run, 5)
    assert "data folder" in caught.value.hint


async def test_a_transient_refusal_is_tried_again(door: Any, take_in: Any) -> None:
    async def full_then_free(carrier: Any) -> None:
        if len(door.carriers) < 3:
            await carrier.receive()
            await carrier.close(Bye(code="overloaded", message="too many nodes join now"))
            return
        await take_in(carrier)
        await asyncio.sleep(60)

    door.script = full_then_free
    async with hosted(door.address) as node:
        await node.until("ready")
    assert [state.reason for state in node.states[:1]] == ["too many nodes join now"]
    assert len(door.carriers) == 3


async def test_the_wrong_coordinator_ends_the_first_try(door: Any) -> None:
    other = NodeKey(b"x" * 32).peer
    async with hosted(f"/ip4/127.0.0.1/tcp/{door.port}/p2p/{other}") as node:
        with pytest.raises(Problem, match="another coordinator"):
            await asyncio.wait_for(node.run, 5)


async def test_after_a_restart_of_the_coordinator_the_node_is_back(pool: Pool) -> None:
    async with hosted(pool.door.address, tokens_per_s=20) as node:
        await node.until("ready")
        await pool.send(Open(job=make_job("lost", max_tokens=1000)))
        await pool.until(lambda: pool.ids.get("lost"))
        await pool.door.stop()
        state = await node.until("joining")
        assert state.reason
        await asyncio.sleep(0.6)
        await pool.door.start()
        await node.until("ready")
        had = len(pool.ids["lost"])
        await pool.send(Open(job=make_job("next")))
        await pool.until(lambda: pool.of(Signed))
        # The old session's job is over: nothing of it is said in the new one.
        assert len(pool.ids["lost"]) == had and pool.of(Signed)[0].segment.job == "next"


async def test_a_node_waits_for_a_coordinator_that_is_not_there_yet(
    door: Any, take_in: Any
) -> None:
    Pool(door, take_in)
    await door.stop()
    async with hosted(door.address) as node:
        state = await node.until("joining")
        await asyncio.sleep(0.3)
        assert "nobody listens" in (node.agent.state.reason or state.reason or "")
        await door.start()
        await node.until("ready")


async def test_a_silent_coordinator_is_left_and_tried_again(door: Any) -> None:
    async def mute(carrier: Any) -> None:
        await carrier.receive()
        await carrier.send(Welcome(coordinator="c", heartbeat_s=0.05, accepted=(DIGEST,)))
        await asyncio.sleep(1)

    door.script = mute
    async with hosted(door.address) as node:
        await node.until("ready")
        state = await node.until("joining", 2)
        assert "silence" in (state.reason or "")
        await node.until("ready")


async def test_drain_while_nobody_answers_ends_at_once(unused_port: int) -> None:
    async with hosted(f"127.0.0.1:{unused_port}") as node:
        await asyncio.sleep(0.05)
        await asyncio.wait_for(node.agent.drain("enough"), 5)
        await asyncio.wait_for(node.run, 5)

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", unused_port)
    async with hosted(f"127.0.0.1:{unused_port}") as node:
        await asyncio.sleep(0.1)
        await asyncio.wait_for(node.agent.drain("enough"), 2)
    server.close()


async def test_an_engines_crash_is_in_a_heartbeat_at_once(pool: Pool) -> None:
    pool.heartbeat_s = 30.0  # Far longer than a test waits: none comes by itself.
    async with hosted(pool.door.address) as node:
        await node.until("ready")
        node.agent.on_engine(EngineEvent(kind="crashed", reason="signal 9"), DIGEST)
        await pool.until(lambda: [b for b in pool.of(Heartbeat) if b.engine == "crashed"])
        assert pool.of(Heartbeat)[-1].reason == "signal 9"
        node.agent.on_engine(EngineEvent(kind="ready", reason=""), DIGEST)
        await pool.until(lambda: pool.of(Heartbeat)[-1].engine == "ready")


async def test_a_stopped_engine_fails_its_jobs_and_signs_what_was_delivered(pool: Pool) -> None:
    engine = EchoEngine(slots=4, tokens_per_s=100, n_vocab=N_VOCAB, digest=DIGEST)
    made = Hosted(pool.door.address, engine, NodeKey(b"n" * 32))
    await made.until("ready")
    await pool.send(Open(job=make_job("job", max_tokens=1000)))
    await pool.until(lambda: len(pool.ids.get("job", [])) > 3)
    await engine.stop()
    await pool.until(lambda: pool.of(Signed))
    assert pool.of(JobFailed)[0].code == "engine_failed"
    assert pool.of(Signed)[0].segment.to == len(pool.ids["job"])
    made.run.cancel()
    await asyncio.wait([made.run])


async def test_however_long_nobody_answered_the_next_try_is_at_most_four_seconds_away(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    leaving: list[asyncio.Task[None]] = []
    agent = Agent(
        NodeKey.load_or_create(tmp_path / "node.key"),
        parse_address("127.0.0.1:9"),
        {DIGEST: EchoEngine(digest=DIGEST, n_vocab=N_VOCAB)},
        name="n",
        clock=SystemClock(),
        on_state=lambda _state: None,
        jitter=lambda: 0.99,
    )

    async def pause(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 12:
            leaving.append(asyncio.create_task(agent.drain("enough", 0.0)))
            await asyncio.sleep(0)

    monkeypatch.setattr(agent, "_pause", pause)
    await agent.run()
    await asyncio.gather(*leaving)
    assert waits == sorted(waits) and waits[0] < 1.0
    assert waits[-1] == LONGEST_WAIT_S < 5.0
