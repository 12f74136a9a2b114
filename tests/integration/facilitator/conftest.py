"""The nodes of the facilitator's tests, which bring wallets of their own: one minisol, and for each
module an EVM node of ours and, under `make test-all`, anvil."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from parhelion.chain.rpc import JsonRpc
from parhelion.testing.minisol import MinisolProcess
from tests.integration.chain.minievm.processes import KINDS, Evm, started
from tests.integration.facilitator import evm_shop as evm_shops
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


@pytest.fixture(scope="module", params=KINDS)
def evm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    with started(request.param, tmp_path_factory.mktemp("evm")) as node:
        yield node


@pytest_asyncio.fixture
async def evm_shop(evm: Evm) -> AsyncIterator[evm_shops.Shop]:
    async with aiohttp.ClientSession() as session:
        rpc = FaultyRpc(JsonRpc(session, evm.rpc))
        yield await asyncio.to_thread(evm_shops.Shop(evm, rpc).open, 10 * evm_shops.PRICE)
