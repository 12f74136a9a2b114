"""One minisol for all tests of the facilitator; each brings wallets of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from parhelion.chain.rpc import JsonRpc
from parhelion.testing.minisol import MinisolProcess
from tests.integration.facilitator.faults import FaultyRpc
from tests.integration.facilitator.solana_shop import PRICE, SLOT_MS, Shop


@pytest.fixture(scope="session")
def minisol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinisolProcess]:
    process = MinisolProcess(tmp_path_factory.mktemp("minisol"), "--slot-ms", str(SLOT_MS))
    yield process
    process.close(kill=True)


@pytest_asyncio.fixture
async def shop(minisol: MinisolProcess) -> AsyncIterator[Shop]:
    async with aiohttp.ClientSession() as session:
        rpc = FaultyRpc(JsonRpc(session, minisol.url))
        made = await asyncio.to_thread(Shop(minisol, rpc).open, 10 * PRICE)
        yield made
