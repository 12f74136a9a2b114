"""A node process without a model: `python -m parhelion.testing.echo_node -s ADDRESS`.

It joins like any node, with a real key over a real link, and answers from an EchoEngine. One JSON
line {"peer": ...} on standard output says that it is registered; SIGTERM or Ctrl-C drains it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec

from parhelion import logs
from parhelion.bootstrap import SystemClock
from parhelion.config import LogConfig
from parhelion.identity import NodeKey, node_name
from parhelion.link import Address, parse_address
from parhelion.node import Agent, AgentState
from parhelion.node.agent import DRAIN_DEADLINE_S
from parhelion.testing.echo import EchoEngine
from parhelion.testing.parrot import ParrotEngine
from parhelion.words import Problem, ProblemCode

CATALOGUE_DEADLINE_S = 10.0
DEFAULT_N_VOCAB = 49152
"""The packaged model's."""

DEFAULT_FIRST_ID = 17
"""The packaged model's ids below are special: an echo that ends the text by chance is no echo."""


class _Model(msgspec.Struct, frozen=True):
    digest: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until drained; 0, or 1 after saying on standard error why not."""
    options = _parser().parse_args(arguments)
    logs.set_up(LogConfig(level=options.log_level))
    try:
        if options.data is not None:
            options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            asyncio.run(_serve(options, options.data))
        else:
            with tempfile.TemporaryDirectory(prefix="parhelion-echo-") as folder:
                asyncio.run(_serve(options, Path(folder)))
    except Problem as problem:
        hint = f"\n\nhint: {problem.hint}" if problem.hint else ""
        sys.stderr.write(f"{problem}{hint}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="echo_node", description="A node without a model.")
    parser.add_argument("-s", "--address", required=True, help="the coordinator")
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="per stream; 0: no pace")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--data", type=Path, help="where its key is kept (default: nowhere)")
    parser.add_argument(
        "--digest", action="append", help="an artefact to offer (default: the pool's first)"
    )
    parser.add_argument("--n-vocab", type=int, default=DEFAULT_N_VOCAB)
    parser.add_argument("--first-id", type=int, default=DEFAULT_FIRST_ID, help="lowest id echoed")
    parser.add_argument("--parrot", action="store_true", help="answer with the last message")
    parser.add_argument("--name")
    parser.add_argument("--drain-s", type=float, default=DRAIN_DEADLINE_S, help="then hand back")
    parser.add_argument("--log-level", default="info")
    return parser


async def _serve(options: argparse.Namespace, data: Path) -> None:
    address = parse_address(options.address)
    key = NodeKey.load_or_create(data / "node.key")
    kind = ParrotEngine if options.parrot else EchoEngine
    engines = {
        digest: kind(
            slots=options.slots,
            tokens_per_s=options.tokens_per_s,
            n_vocab=options.n_vocab,
            digest=digest,
            silent=frozenset(range(options.first_id)),
        )
        for digest in options.digest or [await _first_digest(address)]
    }
    told = False

    def on_state(state: AgentState) -> None:
        nonlocal told
        if state.state == "ready" and not told:
            told = True
            said = {"peer": key.peer, "accepted": state.accepted, "refused": state.refused}
            sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
            sys.stdout.flush()

    agent = Agent(
        key,
        address,
        engines,
        name=options.name or node_name(key.peer),
        clock=SystemClock(),
        on_state=on_state,
        slots=options.slots,
    )
    await _until_drained(agent, options.drain_s)


async def _until_drained(agent: Agent, drain_s: float) -> None:
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    def drain(name: str) -> None:
        if not draining:
            draining.append(asyncio.create_task(agent.drain(name, drain_s)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain, number.name)
    await agent.run()


async def _first_digest(address: Address) -> str:
    """The digest of the pool's first model, from the same API, which may be just starting."""
    try:
        async with asyncio.timeout(CATALOGUE_DEADLINE_S):
            body = await _catalogue(f"{address.url}/v1/models")
        models = msgspec.json.decode(body, type=_Models).data
    except TimeoutError as error:
        raise _no_digest(address, f"no answer for {CATALOGUE_DEADLINE_S:g} s") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_digest(address, "its /v1/models is not ours") from error
    if not models:
        raise _no_digest(address, "it offers no model")
    return models[0].digest


async def _catalogue(url: str) -> bytes:
    async with aiohttp.ClientSession(trust_env=True) as session:
        while True:
            try:
                async with session.get(url) as response:
                    return await response.read()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.2)


def _no_digest(address: Address, why: str) -> Problem:
    return Problem(
        ProblemCode.MODEL_NOT_FOUND,
        f"no model to echo at {address.url}: {why}",
        hint="name the artefact with --digest",
    )


if __name__ == "__main__":
    raise SystemExit(main())
