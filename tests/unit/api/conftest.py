"""An API over real store, ledger, keys and receipts, with a coordinator that answers by script."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from parhelion import identity, ledger, models, proof, store
from parhelion.api import Api, build_app
from parhelion.config import ApiConfig, Config, LimitsConfig
from parhelion.coordinator import (
    Console,
    Health,
    Metrics,
    ModelNodes,
    ModelState,
    NodeFeed,
    NodeView,
    PipelineView,
    PlanView,
    Sights,
    StateMark,
    Traffic,
)
from parhelion.models import SliceBook
from parhelion.setup import SetupBook, Told
from parhelion.words import (
    Ask,
    AssetClass,
    Chunk,
    Credentials,
    ModelCard,
    Problem,
    ProblemCode,
    Rate,
    Usage,
    kin,
)

ASSET = "PRLX.local"
MODEL = "Acme/Small-1"
ADMIN_KEY = "adm-test-key"


class Clock:
    """Time that a test may push; it also flows, so that deadlines of asyncio and it agree."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_ms(self) -> int:
        return 1_800_000_000_000 + int(self.ahead_s * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


def model_card(id: str = MODEL) -> ModelCard:
    return ModelCard(
        id=id,
        digest="ab" * 32,
        vocabulary_digest="cd" * 32,
        template_digest="ef" * 32,
        purpose="chat",
        size_bytes=1000,
        memory_bytes=2000,
        context=2048,
        default_max_tokens=256,
        n_vocab=1000,
        architecture="llama",
        layers=2,
        created_s=1_700_000_000,
        demonstration=True,
    )


class Catalogue:
    """One model, and whatever a test adds."""

    def __init__(self) -> None:
        self._rates: dict[str, dict[str, Rate]] = {}
        self._models: dict[str, models.Model] = {}
        self.pricing: models.Pricing | None = "paid"
        self.refuses: Exception | None = None
        self.put(MODEL, {ASSET: (4_000_000, 5_680_001)})

    def put(self, id: str, prices: dict[str, tuple[int, int]]) -> models.Model:
        made = models.Model(card=model_card(id), path="/secret/file.gguf")
        self._models[id] = made
        for asset, price in prices.items():
            self._rates.setdefault(id, {})[asset] = _rate(id, asset, 1, price)
        return made

    def by_digest(self, digest: str) -> models.Model | None:
        return next((one for one in self._models.values() if one.card.digest == digest), None)

    def models(self) -> tuple[models.Model, ...]:
        return tuple(self._models.values())

    def rates(self, id: str) -> tuple[Rate, ...]:
        return tuple(self._rates.get(id, {}).values())

    def resolve(self, name: str | None) -> models.Model:
        if name is None:
            return next(iter(self._models.values()))
        for id, found in self._models.items():
            if name == id or name.lower() == id.rsplit("/", 1)[-1].lower():
                return found
        raise Problem(ProblemCode.MODEL_NOT_FOUND, f"no model {name[:64]!r}", param="model")

    async def add(self, id: str, path: Path, *, rates: Any) -> models.Model:
        if path.suffix != ".gguf":
            raise Problem(ProblemCode.ARTEFACT_INVALID, "no GGUF file", param="path")
        return self.put(id, dict(rates))

    async def remove(self, id: str) -> models.Model:
        if id == next(iter(self._models)):
            raise Problem(ProblemCode.CONFLICT, "the default", param="id")
        return self._models.pop(id)

    def put_first(self, ids: Sequence[str]) -> None:
        self._models = {**{id: self._models[id] for id in ids}, **self._models}

    async def turn(
        self,
        pricing: models.Pricing | None,
        prices: Mapping[str, tuple[int, int]],
        own: Mapping[str, Mapping[str, tuple[int, int]]],
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.pricing = pricing or self.pricing
        for id, rates in self._rates.items():
            wanted = {asset: price for asset, price in prices.items() if asset in rates}
            for asset, price in {**wanted, **own.get(id, {})}.items():
                old = rates[asset]
                if (old.prompt_micro, old.completion_micro) != price:
                    rates[asset] = _rate(id, asset, old.version + 1, price)

    async def set_rate(
        self, id: str, asset: str, *, prompt_micro: int, completion_micro: int
    ) -> Rate:
        version = self._rates[id][asset].version + 1
        made = _rate(id, asset, version, (prompt_micro, completion_micro))
        self._rates[id][asset] = made
        return made


def _rate(model: str, asset: str, version: int, price: tuple[int, int]) -> Rate:
    return Rate(
        model=model,
        asset=asset,
        version=version,
        prompt_micro=price[0],
        completion_micro=price[1],
    )


@dataclass
class Script:
    """What an answer does: texts, waits (a number) and problems in turn; then it finishes."""

    steps: Sequence[str | float | Problem | asyncio.Event] = ("Hel", "lo")
    finish_reason: str = "stop"
    before: Sequence[float | Problem | asyncio.Event] = ()
    nodes: tuple[str, ...] = ("12D3KooWNode",)
    moves: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Who makes it from that many texts on."""


class Answer:
    """An answer that follows a script and counts how often it was told that the client left."""

    def __init__(self, request: str, model: str, script: Script) -> None:
        self.request = request
        self.model = model
        self.receipt = kin("rcpt", request)
        self.prompt_tokens = 7
        self.bought = None
        self.disconnects = 0
        self.ended = False
        self._script = script
        self._steps = iter(script.steps)
        self._said: list[str] = []

    def nodes(self) -> tuple[str, ...]:
        moves = [to for texts, to in self._script.moves.items() if texts <= len(self._said)]
        return moves[-1] if moves else self._script.nodes

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        for step in self._steps:
            if isinstance(step, str):
                self._said.append(step)
                return Chunk(text=step)
            await _wait(step)
        if self.ended:
            raise StopAsyncIteration
        self.ended = True
        return Chunk(finish_reason=self._script.finish_reason, usage=self._usage())

    async def whole(self) -> Chunk:
        last = Chunk()
        async for chunk in self:
            last = chunk
        return msgspec.structs.replace(last, text="".join(self._said))

    async def disconnect(self) -> None:
        self.disconnects += 1

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=7,
            completion_tokens=len(self._said),
            cached_tokens=3,
            cost="5680",
            asset=ASSET,
            nodes=("12D3KooWNode",),
            segments=(("12D3KooWNode",),),
            route="pool",
            migrations=0,
            hold=kin("hold", self.request),
            receipt=self.receipt,
            credited="0",
        )


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition has no event to wait for
            await asyncio.sleep(0.001)


async def _wait(step: float | Problem | asyncio.Event) -> None:
    if isinstance(step, Problem):
        raise step
    if isinstance(step, asyncio.Event):
        await step.wait()
    else:
        await asyncio.sleep(step)


class Coordinator:
    """Answers asks by the script that the test left; remembers what it was asked."""

    def __init__(self, catalogue: Catalogue, keys: identity.Keys, clock: Clock) -> None:
        self.script = Script()
        self.free = True
        self.status = "ready"
        self.asks: list[Ask] = []
        self.answers: list[Answer] = []
        self.cancelled = 0
        self.expelled: list[str] = []
        self.sent_away: list[tuple[str, str, float]] = []
        self.pardoned: list[str] = []
        self.attended: list[Any] = []
        self.slots_busy = 1
        self.catalogue_changes = 0
        self.gone: tuple[NodeView, ...] = ()
        self.planned = PlanView()
        self.feed = NodeFeed(self.known_nodes, "e0")
        self.waiting = 0
        self.need = 1
        self.traffic = Traffic()
        self.states: dict[str, tuple[StateMark, ...]] = {}
        self.console = Console(
            self.traffic,
            Sights(
                answers=lambda: [],
                waiting=lambda: self.waiting,
                models=lambda: (ModelNodes(id=MODEL, nodes=1, available=True),),
                nodes_tokens_per_s=lambda: None,
                name_of=self.name_of,
            ),
            clock,
        )
        self._catalogue = catalogue
        self._keys = keys

    def node(self, peer: str) -> NodeView | None:
        return next((node for node in self.known_nodes() if node.peer == peer), None)

    def states_of(self, peer: str) -> tuple[StateMark, ...]:
        return self.states.get(peer, ())

    def pipeline_views(self) -> tuple[PipelineView, ...]:
        return ()

    def servers(self) -> Mapping[str, int]:
        return {MODEL: 1}

    async def plan(self) -> PlanView:
        return self.planned

    async def serve(self, ask: Ask, credentials: Credentials) -> Answer:
        self.asks.append(ask)
        model = self._catalogue.resolve(ask.model)
        if credentials.bearer is not None:
            self._keys.authenticate(credentials.bearer)
        elif not self.free:
            raise Problem(ProblemCode.MISSING_CREDENTIALS, "no key", hint="send a key")
        try:
            for step in self.script.before:
                await _wait(step)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = Answer(ask.request, model.card.id, self.script)
        self.answers.append(answer)
        return answer

    async def attend(self, carrier: Any, whence: str = "far", **_origin: Any) -> None:
        self.attended.append(carrier)

    def want(self, nodes: int) -> None:
        self.need = nodes

    def why_not(self, model: str) -> str | None:
        return None

    def catalogue_changed(self) -> None:
        self.catalogue_changes += 1

    def expel(self, peer: str, reason: str) -> None:
        self.expelled.append(peer)

    def send_away(self, peer: str, reason: str, deadline_s: float) -> None:
        self.sent_away.append((peer, reason, deadline_s))

    def pardon(self, peer: str) -> None:
        self.pardoned.append(peer)

    def name_of(self, peer: str) -> str:
        return identity.node_name(peer)

    def is_here(self, peer: str) -> bool:
        return False

    def health(self) -> Health:
        status: Any = self.status
        return Health(status=status, model=MODEL, nodes=1, need=self.need, local=True)

    def takes_prompts(self) -> bool:
        return self.status == "ready"

    def known_nodes(self) -> tuple[NodeView, ...]:
        return (*self.nodes(), *self.gone)

    def nodes(self) -> tuple[NodeView, ...]:
        return (
            NodeView(
                name="amber-heron-3f2a",
                peer="12D3KooWNode",
                operator="node:12D3KooWNode",
                state="ready",
                reason=None,
                models=(MODEL,),
                model_states=(ModelState(model=MODEL, state="ready"),),
                slots=16,
                slots_busy=self.slots_busy,
                tokens_per_s=None,
                version="0.1.0",
                device="cpu",
                backend="llama.cpp",
                connected_at_ms=1_800_000_000_000,
                served=0,
                failed=0,
            ),
        )


@dataclass
class Response:
    """What came back: the start, and every body event apart, because streaming is about those."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The `data:` events; comments are left out, [DONE] is kept as that string."""
        found = []
        for block in self.body.decode().split("\n\n"):
            if block.startswith("data: "):
                text = block[6:]
                found.append(text if text == "[DONE]" else msgspec.json.decode(text))
        return found


class Exchange:
    """One request under way: a test can drop the connection, or stop reading."""

    def __init__(self, app: Any, scope: dict[str, Any], parts: Sequence[bytes]) -> None:
        self.response = Response()
        self.reading = asyncio.Event()
        self.reading.set()
        self._gone = asyncio.Event()
        self._parts = list(parts)
        self.parts_read = 0
        self.parts_before_answer: int | None = None
        self._bodies_limit: int | None = None
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def drop(self) -> None:
        self._gone.set()

    def reads_only(self, bodies: int) -> None:
        """Stop reading behind so many parts of the body, however fast the next ones come."""
        self._bodies_limit = bodies

    async def until_bodies(self, count: int) -> None:
        await until(lambda: len(self.response.bodies) >= count)

    async def _receive(self) -> Any:
        if self._parts:
            self.parts_read += 1
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            assert not self.response.status, "the response started twice"
            self.parts_before_answer = self.parts_read
            self.response.status = message["status"]
            self.response.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert self.response.status, "a body before the start"
        assert not self.response.complete, "a body after the end"
        self.response.bodies.append(message["body"])
        if len(self.response.bodies) == self._bodies_limit:
            self.reading.clear()
        self.response.complete = not message.get("more_body", False)


@dataclass
class Pool:
    """The app and the rooms behind it."""

    app: Api
    coordinator: Coordinator
    catalogue: Catalogue
    keys: identity.Keys
    accounts: identity.Accounts
    ledger: ledger.Ledger
    receipts: proof.Receipts
    store: store.Store
    clock: Clock
    access: identity.NodeAccess
    slices: SliceBook
    fetch_tokens: identity.FetchTokens
    sessions: identity.Sessions
    setup: SetupBook
    folder: Path

    def start(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | Sequence[bytes] | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        client: str = "127.0.0.1",
    ) -> Exchange:
        """Begin a request; `raw` is sent as it is, `body` as JSON."""
        sent = {"host": "localhost:3001", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        parts = [raw] if isinstance(raw, bytes) else list(raw or [])
        if body is not None:
            parts = [msgspec.json.encode(body)]
        if parts:
            sent.setdefault("content-type", "application/json")
        where, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": where,
            "raw_path": where.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in sent.items()
            ],
            "client": (client, 5000),
            "server": ("127.0.0.1", 3001),
            "state": {},
        }
        return Exchange(self.app, scope, parts or [b""])

    until = staticmethod(until)

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Response:
        """A whole request."""
        exchange = self.start(method, path, body, **more)
        async with asyncio.timeout(10):
            await exchange.task
        return exchange.response

    async def chat(self, **fields: Any) -> Response:
        """A chat request with one user message and these fields."""
        return await self.call("POST", "/v1/chat/completions", chat_body(**fields))

    async def key(self, **fields: Any) -> tuple[str, identity.KeyView]:
        """A new account's key."""
        account = fields.pop("account", None) or await self.accounts.create("user")
        return await self.keys.create(account, asset=ASSET, name="test", **fields)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


CONFIG = Config(
    api=ApiConfig(first_id_wait_s=0.1, keep_alive_s=0.1, max_body_bytes=64 * 1024),
    limits=LimitsConfig(burst=100_000, accounts_per_hour_address=240),
)
"""Short waits, so that a test of them is short."""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """An API with one model and a scripted coordinator."""
    made = await make_pool(tmp_path, CONFIG)
    yield made
    await made.store.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """One pool for the many tests that only send bodies: to make one takes a quarter second."""
    made = await make_pool(tmp_path_factory.mktemp("shared"), CONFIG)
    yield made
    await made.store.close()


async def make_pool(folder: Path, config: Config) -> Pool:
    clock = Clock()
    migrations = (
        *store.MIGRATIONS,
        *ledger.MIGRATIONS,
        *identity.MIGRATIONS,
        *proof.MIGRATIONS,
    )
    file = await store.Store.open(folder / "test.db", migrations, AssetClass.LOCAL, clock)
    shares = ledger.Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    books = ledger.Ledger(file, clock, shares)
    keys = identity.Keys(file, clock)
    await keys.load()
    accounts = identity.Accounts(file, books, clock)
    invites = identity.Invites(file, clock)
    access = identity.NodeAccess(file, clock, invites, "invite", ())
    await access.load()
    catalogue = Catalogue()
    coordinator = Coordinator(catalogue, keys, clock)
    receipts = proof.Receipts(file, clock)
    slices = SliceBook(catalogue, folder / "models")
    fetch_tokens = identity.FetchTokens(clock, os.urandom)
    sessions = identity.Sessions(file, clock)
    book = SetupBook(folder, Told(), None)
    app = build_app(
        coordinator=coordinator,
        catalogue=catalogue,
        keys=keys,
        ledger=books,
        receipts=receipts,
        accounts=accounts,
        invites=invites,
        access=access,
        store=file,
        config=config,
        clock=clock,
        entropy=os.urandom,
        metrics=Metrics(),
        node_key=identity.NodeKey.load_or_create(folder / "coordinator.key"),
        admin_key=ADMIN_KEY,
        slices=slices,
        fetch_tokens=fetch_tokens,
        wallets=identity.Wallets(file, books, clock),
        sessions=sessions,
        members=members_of(file, books, clock, sessions, config.limits, ASSET),
        setup=book,
    )
    return Pool(
        app,
        coordinator,
        catalogue,
        keys,
        accounts,
        books,
        receipts,
        file,
        clock,
        access,
        slices,
        fetch_tokens,
        sessions,
        book,
        folder,
    )


def members_of(
    file: store.Store,
    books: ledger.Ledger,
    clock: Clock,
    sessions: identity.Sessions,
    limits: LimitsConfig,
    asset: str,
) -> identity.Members:
    """Accounts without a wallet, as the coordinator has them."""
    newcomers = identity.Newcomers(
        books, clock, limits.accounts_per_hour, limits.accounts_per_hour_address
    )
    return identity.Members(file, clock, sessions, newcomers, b"p" * 32, asset)
