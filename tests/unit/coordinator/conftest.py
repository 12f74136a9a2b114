"""A pool in memory: the real coordinator, books and receipts; fake nodes that a test moves."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion import identity, ledger, payments, proof, store
from parhelion.config import Config, LimitsConfig, NodesConfig
from parhelion.coordinator import Answer, Coordinator, Metrics
from parhelion.link import (
    Bye,
    Cut,
    Draining,
    EngineState,
    Heartbeat,
    JobFailed,
    LinkBroken,
    Open,
    Register,
    Signed,
    Steps,
    Welcome,
)
from parhelion.words import (
    Ask,
    AssetClass,
    Chunk,
    Credentials,
    Job,
    ModelCard,
    NodeCard,
    Problem,
    ProblemCode,
    Rate,
    Segment,
    ServedModel,
    Step,
    mint,
)
from tests.unit.coordinator.rings import Rig

ASSET = "PRLX.local"
DIGEST = "d" * 64
EOG, SILENT = 0, 1
PIECES = (b"", b"", *(bytes([letter]) for letter in b"abcdefghij"), b"\xe2", b"\x82", b"\xac")
A, B, C = 2, 3, 4
MIGRATIONS = (
    *store.MIGRATIONS,
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)
SOON_S = 5.0


class HandClock:
    """Wall and monotonic time that only a test moves."""

    def __init__(self) -> None:
        self.s = 1_700_000_000.0

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s


@dataclass(frozen=True)
class Vocabulary:
    pieces: tuple[bytes, ...] = PIECES
    eog: frozenset[int] = frozenset({EOG})
    digest: str = "f" * 64


@dataclass(frozen=True)
class Model:
    card: ModelCard
    path: str = "/nowhere"


def model_card(**changes: Any) -> ModelCard:
    card = ModelCard(
        id="tests/abc",
        digest=DIGEST,
        vocabulary_digest="f" * 64,
        template_digest="e" * 64,
        purpose="chat",
        size_bytes=1,
        memory_bytes=1,
        context=1000,
        default_max_tokens=20,
        n_vocab=len(PIECES),
        architecture="none",
        layers=1,
        created_s=0,
    )
    return msgspec.structs.replace(card, **changes)


class Catalogue:
    """One model at one rate; `default` is another one that stands before it."""

    def __init__(self, rate: Rate) -> None:
        self.model = Model(model_card())
        self.default: Model | None = None
        self.rate = rate

    def models(self) -> tuple[Model, ...]:
        return (self.model,) if self.default is None else (self.default, self.model)

    def resolve(self, name: str | None) -> Model:
        for model in self.models():
            if name in (None, model.card.id):
                return model
        raise Problem(ProblemCode.MODEL_NOT_FOUND, "no such model")

    def by_digest(self, digest: str) -> Model | None:
        return next((model for model in self.models() if model.card.digest == digest), None)

    def rates(self, model_id: str) -> tuple[Rate, ...]:
        return (self.rate,)


class Tokeniser:
    """Prompts are ids already."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def prepare(self, model: Model, ask: Ask, line: str) -> tuple[int, ...]:
        self.lines.append(line)
        if ask.messages is not None:
            # A chat: its letters, as far as the vocabulary has them.
            text = "".join(str(message.content) for message in ask.messages)
            return tuple(A + ord(letter) % 10 for letter in text)
        assert isinstance(ask.prompt, tuple)
        return ask.prompt

    async def vocabulary(self, model: Model) -> Vocabulary:
        return Vocabulary()


class FakeCarrier:
    """The coordinator's end of a link; `said` is what it sent, `hear` what the node says."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.said: list[Any] = []
        self.bye: Bye | None = None
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.on_said: Callable[[Any], None] = lambda _message: None

    def hear(self, message: Any) -> None:
        self._inbox.put_nowait(message)

    async def send(self, message: Any) -> None:
        self.post(message)

    def post(self, message: Any) -> None:
        self.said.append(message)
        self.on_said(message)

    async def receive(self) -> Any:
        message = await self._inbox.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self, bye: Bye) -> None:
        self.bye = bye


@dataclass
class FakeNode:
    """A node as a script: it says what the test makes it say, and signs what it said."""

    key: identity.NodeKey
    carrier: FakeCarrier
    slots: int
    task: asyncio.Task[None] | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    made: dict[str, list[int]] = field(default_factory=dict)
    script: Callable[[FakeNode, Job], None] | None = None
    signs: bool = True

    @property
    def peer(self) -> str:
        return self.key.peer

    def card(self, **changes: Any) -> NodeCard:
        card = NodeCard(
            peer=self.peer,
            name="a node",
            version="1",
            device="cpu",
            backend="fake",
            slots=self.slots,
            kv_tokens=100_000,
            models=(ServedModel(digest=DIGEST, context=1000),),
        )
        return msgspec.structs.replace(card, **changes)

    def said(self, kind: type) -> list[Any]:
        return [message for message in self.carrier.said if isinstance(message, kind)]

    def obey(self, message: Any) -> None:
        if isinstance(message, Open):
            known = self.jobs.get(message.job.job)
            # As a real node would, only that it keeps silent.
            assert known is None or known.attempt != message.job.attempt, "a job opened twice"
            self.jobs[message.job.job] = message.job
            self.made[message.job.job] = list(message.job.output_ids)
            if self.script is not None:
                self.script(self, message.job)
        elif isinstance(message, Cut) and self.signs:
            self.sign(self.jobs[message.job], message.n)

    async def job(self, number: int = 0) -> Job:
        """The job opened as the `number`th at this node."""
        async with asyncio.timeout(SOON_S):
            while len(self.said(Open)) <= number:  # noqa: ASYNC110
                await asyncio.sleep(0)
        return self.said(Open)[number].job

    def prefill(self, job: Job, prefilled: int = 1) -> None:
        step = Step(job.job, job.attempt, len(self.made[job.job]), (), None, prefilled)
        self.carrier.hear(Steps(steps=(step,)))

    def step(self, job: Job, ids: Sequence[int], finish: str | None = None) -> None:
        made = self.made[job.job]
        step = Step(job.job, job.attempt, len(made), tuple(ids), finish)
        made.extend(ids)
        self.carrier.hear(Steps(steps=(step,)))

    def finish(self, job: Job, ids: Sequence[int], finish: str = "length") -> None:
        self.step(job, ids, finish)
        if self.signs:
            self.sign(job, len(self.made[job.job]))

    def fail(self, job: Job, code: str = "engine_failed") -> None:
        self.carrier.hear(JobFailed(job=job.job, attempt=job.attempt, code=code, message="no"))

    def segment(self, job: Job, to: int) -> Segment:
        return Segment(
            node=self.peer,
            job=job.job,
            attempt=job.attempt,
            opening_hash=proof.opening_hash(job.opening),
            artefact=job.digest,
            backend="fake",
            start=len(job.output_ids),
            to=to,
            head=proof.chain(job.opening, job.prompt_ids, self.made[job.job][:to]).hex(),
            ask=proof.ask_digest(job),
            started_at_ms=1,
            ended_at_ms=2,
        )

    def sign(self, job: Job, to: int) -> None:
        signed = proof.sign_segment(self.key, self.segment(job, to))
        self.carrier.hear(Signed(segment=signed))

    def beat(
        self,
        engine: str = "ready",
        reason: str | None = None,
        engines: tuple[EngineState, ...] = (),
    ) -> None:
        beat = Heartbeat(sent_at_ms=0, slots_busy=0, engine=engine, reason=reason, engines=engines)
        self.carrier.hear(beat)

    def drain(self) -> None:
        self.carrier.hear(Draining(reason="tired"))

    def die(self) -> None:
        self.carrier.hear(LinkBroken(ProblemCode.LINK_BROKEN, "socket closed"))


def whole_answers(ids: Sequence[int]) -> Callable[[FakeNode, Job], None]:
    """A script: every job is answered at once with the first of these ids, signed."""

    def answer(node: FakeNode, job: Job) -> None:
        left = job.max_tokens - len(job.output_ids)
        made = tuple(itertools.islice(itertools.cycle(ids), left))
        node.finish(job, made)

    return answer


class MoodyLedger(ledger.Ledger):
    """Books whose store is away for the next `away` posts and voids."""

    away = 0

    async def post(self, *args: Any, **named: Any) -> int:
        self._maybe_away()
        return await super().post(*args, **named)

    async def void(self, *args: Any, **named: Any) -> None:
        self._maybe_away()
        await super().void(*args, **named)

    def _maybe_away(self) -> None:
        if self.away:
            self.away -= 1
            raise Problem(ProblemCode.STORE_UNAVAILABLE, "the disk is full")


class Pool:
    """Everything around one coordinator, and short words for what tests do with it."""

    ASSET, DIGEST, EOG, SILENT, A, B, C = ASSET, DIGEST, EOG, SILENT, A, B, C

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.rate = Rate(
            model="tests/abc", asset=ASSET, version=1, prompt_micro=1_000_000,
            completion_micro=2_000_000,
        )  # fmt: skip
        self.catalogue = Catalogue(self.rate)
        self.tokeniser = Tokeniser()
        self.fakes: list[FakeNode] = []
        self.asked = 0

    async def open(
        self,
        need: int = 1,
        limits: LimitsConfig | None = None,
        resume_wait_s: float = 0.05,
        fallback: str | None = None,
        own: tuple[str, ...] = (),
        probe: bool = False,
    ) -> None:
        self.store = await store.Store.open(
            self.folder / "p.db", MIGRATIONS, AssetClass.LOCAL, self.clock
        )
        shares = ledger.Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
        self.ledger = MoodyLedger(self.store, self.clock, shares)
        self.keys = identity.Keys(self.store, self.clock)
        await self.keys.load()
        self.receipts = proof.Receipts(self.store, self.clock)
        self.invites = identity.Invites(self.store, self.clock)
        self.access = identity.NodeAccess(self.store, self.clock, self.invites, "open", ())
        await self.access.load()
        self.gate = payments.Gate(
            self.keys,
            self.ledger,
            self.store,
            self.clock,
            os.urandom,
            asset=ASSET,
            receipts=self.receipts,
        )
        self.metrics = Metrics()
        self.key = identity.NodeKey.load_or_create(self.folder / "coordinator.key")
        self.coordinator = Coordinator(
            config=Config(
                limits=limits or LimitsConfig(),
                nodes=NodesConfig(resume_wait_s=resume_wait_s, probe=probe),
            ),
            clock=self.clock,
            entropy=os.urandom,
            key=self.key,
            catalogue=self.catalogue,  # type: ignore[arg-type]
            tokeniser=self.tokeniser,  # type: ignore[arg-type]
            gate=self.gate,
            ledger=self.ledger,
            receipts=self.receipts,
            access=self.access,
            metrics=self.metrics,
            need=need,
            fallback=fallback,
            own=own,
        )
        await self.coordinator.start()

    async def crash(self) -> None:
        """End as kill -9 would: nothing is settled, what was committed stays."""
        coordinator = self.coordinator
        tasks = [*coordinator._tasks, *coordinator.service.live]
        tasks += [fake.task for fake in self.fakes if fake.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.store.close()
        self.fakes = []

    async def close(self) -> None:
        await self.coordinator.stop()
        for fake in self.fakes:
            if fake.task is not None:
                await asyncio.wait_for(fake.task, SOON_S)
        await self.store.close()

    async def user(self, credits_micro: int) -> tuple[str, str]:
        """A new account and its key."""
        accounts = identity.Accounts(self.store, self.ledger, self.clock)
        account = await accounts.create("user")
        if credits_micro:
            grant = mint("grant", self.clock.now_ms(), os.urandom(10))
            await self.ledger.grant(account, ASSET, credits_micro, id=grant, reason="test")
        secret, _view = await self.keys.create(account, asset=ASSET, name="t")
        return account, secret

    async def node(self, slots: int = 8, **card: Any) -> FakeNode:
        """A node that has been welcomed."""
        node = self.fake(slots)
        await self.join(node, **card)
        assert node.said(Welcome), node.carrier.bye
        return node

    def fake(self, slots: int = 8, key: identity.NodeKey | None = None) -> FakeNode:
        if key is None:
            key = identity.NodeKey.load_or_create(self.folder / f"node{len(self.fakes)}.key")
        node = FakeNode(key, FakeCarrier(key.peer), slots)
        node.carrier.on_said = node.obey
        self.fakes.append(node)
        return node

    async def join(self, node: FakeNode, invite: str | None = None, **card: Any) -> None:
        before = self.coordinator.registry.member(node.peer)
        node.carrier.hear(Register(card=node.card(**card), invite=invite))
        attending = self.coordinator.attend(node.carrier)  # type: ignore[arg-type]
        node.task = asyncio.create_task(attending)
        async with asyncio.timeout(SOON_S):
            while node.carrier.bye is None:
                if self.coordinator.registry.member(node.peer) is not before:
                    break
                await asyncio.sleep(0)

    def ask(self, **fields: Any) -> Ask:
        self.asked += 1
        request = mint("req", self.clock.now_ms(), self.asked.to_bytes(10, "big"))
        named = {"prompt": (A, B, C), "max_tokens": 4, "deadline_s": 5.0, **fields}
        return Ask(request=request, dialect="completions", **named)

    async def serve(self, secret: str | None, **fields: Any) -> Answer:
        answer = await self.coordinator.serve(self.ask(**fields), Credentials(bearer=secret))
        assert isinstance(answer, Answer)
        return answer

    async def begin(self, secret: str, **fields: Any) -> asyncio.Task[Answer]:
        """A request that has its place or waits for one, however slow the disk is."""
        before = self.coordinator.places.waiting
        task = asyncio.create_task(self.serve(secret, **fields))
        async with asyncio.timeout(SOON_S):
            while not task.done() and self.coordinator.places.waiting == before:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return task

    async def settled(self) -> None:
        """Return when no request is running."""
        async with asyncio.timeout(SOON_S):
            while self.coordinator.service.live:
                await asyncio.wait(list(self.coordinator.service.live))

    async def free_micro(self, account: str) -> int:
        return (await self.ledger.balance(account, ASSET)).available_micro

    async def held_micro(self, account: str) -> int:
        return (await self.ledger.balance(account, ASSET)).held_micro

    async def assert_settled(self) -> None:
        """No hold is open, no slot busy, the books are exact."""
        await self.settled()
        assert await self.ledger.open_holds() == ()
        assert await self.ledger.audit() == ()
        async with asyncio.timeout(SOON_S):
            while any(node.slots_busy for node in self.coordinator.registry.nodes()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @staticmethod
    async def read(answer: Answer) -> tuple[str, Chunk]:
        """The whole text and the last chunk."""
        text = ""
        last: Chunk | None = None
        async with asyncio.timeout(SOON_S):
            async for last in answer:
                text += last.text
        assert last is not None and last.usage is not None
        return text, last

    @staticmethod
    def answering(*ids: int) -> Callable[[FakeNode, Job], None]:
        return whole_answers(ids or (A,))


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    pool = Pool(tmp_path)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def closed_pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """A pool that the test opens itself."""
    pool = Pool(tmp_path)
    yield pool
    await pool.close()


@pytest.fixture
def quick_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing signature is given up at once, so that no test waits two seconds for it."""
    monkeypatch.setattr("parhelion.coordinator.attempt.SIGNATURE_WAIT_S", 0.05)


@pytest.fixture
async def rig(closed_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A pool whose nodes come for pipelines; signatures that nobody makes are soon given up."""
    monkeypatch.setattr("parhelion.coordinator.pipeline.PARTS_WAIT_S", 0.2)
    # As in the product a little longer: the attempt waits for the pipeline's word.
    monkeypatch.setattr("parhelion.coordinator.attempt.SIGNATURE_WAIT_S", 0.4)
    await closed_pool.open(resume_wait_s=5.0)
    return Rig(closed_pool)


@pytest.fixture
def pool_class() -> type[Pool]:
    """For a test that opens a pool in a loop of its own."""
    return Pool
