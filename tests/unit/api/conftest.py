"""An API over real store, ledger, keys and receipts, with a coordinator that answers by script."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from parhelion import identity, ledger, models, proof, store
from parhelion.api import Api, build_app
from parhelion.config import ApiConfig, Config, LimitsConfig
from parhelion.coordinator import Health, Metrics, ModelState, NodeFeed, NodeView
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
        self.put(MODEL, {ASSET: (4_000_000, 5_680_001)})

    def put(self, id: str, prices: dict[str, tuple[int, int]]) -> models.Model:
        made = models.Model(card=model_card(id), path="/secret/file.gguf")
        self._models[id] = made
        for asset, price in prices.items():
            self._rates.setdefault(id, {})[asset] = _rate(id, asset, 1, price)
        return made

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


class Answer:
    """An answer that follows a script and counts how often it was told that the client left."""

    def __init__(self, request: str, model: str, script: Script) -> None:
        self.request = request
        self.model = model
        self.receipt = kin("rcpt", request)
        self.prompt_tokens = 7
        self.disconnects = 0
        self.ended = False
        self._script = script
        self._steps = iter(script.steps)
        self._said: list[str] = []

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

    def __init__(self, catalogue: Catalogue, keys: identity.Keys) -> None:
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
        self.feed = NodeFeed(self.known_nodes, "e0")
        self._catalogue = catalogue
        self._keys = keys

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
        return Health(status=status, model=MODEL, nodes=1, need=1, local=True)

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
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def drop(self) -> None:
        self._gone.set()

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
    limits=LimitsConfig(burst=100_000),
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
    coordinator = Coordinator(catalogue, keys)
    receipts = proof.Receipts(file, clock)
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
    )
    return Pool(app, coordinator, catalogue, keys, accounts, books, receipts, file, clock, access)
