"""An echo node whose answers a test can foretell id by id, and the vocabulary it speaks in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from parhelion.bootstrap import SystemClock
from parhelion.identity import NodeKey
from parhelion.link import parse_address
from parhelion.models import DEFAULT_MODEL_ID, Model, TokeniserHost, inspect
from parhelion.node import Agent, AgentState
from parhelion.testing import EchoEngine
from parhelion.testing.echo import Trail
from parhelion.words import Ask, Message

NODE_KEY = NodeKey(b"spine" + bytes(27))
JOIN_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Tongue:
    """The packaged model's vocabulary, and one prompt in it.

    Echo nodes speak only `spoken` ids, which show one or more ASCII characters each: then the
    text that a client got tells exactly how many ids it got.
    """

    digest: str
    pieces: tuple[bytes, ...]
    spoken: frozenset[int]
    prompt: str
    prompt_ids: tuple[int, ...]

    @property
    def silent(self) -> frozenset[int]:
        return frozenset(range(len(self.pieces))) - self.spoken

    def ids(self, seed: int, count: int) -> list[int]:
        """The first ids of the answer to the prompt under this seed."""
        trail, made = Trail(self.prompt_ids, seed, len(self.pieces), self.silent), []
        for _ in range(count):
            made.append(trail.next())
            trail.add(made[-1])
        return made

    def count(self, text: str, seed: int, most: int) -> int:
        """How many ids a client got; AssertionError when one is lost, doubled or changed."""
        shown, rest = 0, text
        for id in self.ids(seed, most):
            piece = self.pieces[id].decode()
            if not rest:
                return shown
            assert rest.startswith(piece), f"id {shown} should show {piece!r}, not {rest[:20]!r}"
            rest = rest.removeprefix(piece)
            shown += 1
        assert not rest, f"{len(rest)} characters more than {most} ids show"
        return shown


@pytest.fixture(scope="session")
def tongue(smollm2: Path) -> Tongue:
    """Read once, by the tokeniser host that the pool uses itself."""
    model = Model(card=inspect(smollm2, DEFAULT_MODEL_ID), path=str(smollm2))
    prompt = "Tell me a secret."

    async def read() -> Tongue:
        host = TokeniserHost([model])
        await host.start()
        try:
            vocabulary = await host.vocabulary(model)
            turns = (Message(role="user", content=prompt),)
            ids = await host.prepare(model, Ask(request="req_0", dialect="chat", messages=turns))
        finally:
            await host.stop()
        spoken = frozenset(
            id
            for id, piece in enumerate(vocabulary.pieces)
            if piece.isascii() and piece.isalpha() and not vocabulary.is_silent(id) and id > 16
        )
        return Tongue(model.card.digest, vocabulary.pieces, spoken, prompt, ids)

    return asyncio.run(read())


Joined = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
def joined(tongue: Tongue) -> Joined:
    """`async with joined(address)`: an echo node of this process, ready in the pool."""

    @asynccontextmanager
    async def join(
        address: str, *, tokens_per_s: float = 0.0, slots: int = 8
    ) -> AsyncIterator[Agent]:
        engine = EchoEngine(
            slots=slots,
            tokens_per_s=tokens_per_s,
            n_vocab=len(tongue.pieces),
            digest=tongue.digest,
            silent=tongue.silent,
        )
        ready = asyncio.Event()

        def on_state(state: AgentState) -> None:
            if state.state == "ready":
                ready.set()

        agent = Agent(
            NODE_KEY,
            parse_address(address),
            {tongue.digest: engine},
            name="echo",
            clock=SystemClock(),
            on_state=on_state,
        )
        running = asyncio.create_task(agent.run())
        try:
            await asyncio.wait_for(ready.wait(), JOIN_DEADLINE_S)
            yield agent
        finally:
            running.cancel()
            await asyncio.wait([running])

    return join
