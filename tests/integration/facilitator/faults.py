"""A chain's RPC that fails as a test says, for any method, before or after it did its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from parhelion.chain.rpc import JsonRpc, RpcUnavailable

Fault: TypeAlias = Callable[["FaultyRpc", Sequence[Any]], Awaitable[Any]]


class FaultyRpc:
    """A real JsonRpc; `faults` take a method's place until `heal`; `spent_ms`: its last call's."""

    def __init__(self, rpc: JsonRpc) -> None:
        self.rpc = rpc
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self.spent_ms: dict[str, float] = {}

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.calls.append(method)
        fault = self.faults.get(method)
        begun_s = time.perf_counter()
        answer = await (self.rpc(method, params) if fault is None else fault(self, params))
        self.spent_ms[method] = (time.perf_counter() - begun_s) * 1000
        return answer

    def fail(self, method: str, fault: Fault) -> None:
        self.faults[method] = fault

    def heal(self) -> None:
        self.faults.clear()


async def hangs(_: FaultyRpc, __: Sequence[Any]) -> Any:
    await asyncio.sleep(3600)


async def is_lost(_: FaultyRpc, __: Sequence[Any]) -> Any:
    """It never arrives, and nobody can tell."""
    raise RpcUnavailable("no answer")


async def is_away(_: FaultyRpc, __: Sequence[Any]) -> Any:
    """Nobody listens."""
    raise RpcUnavailable("connection refused", left_us=False)


def says(answer: Any) -> Fault:
    """Whatever is asked."""

    async def fault(_: FaultyRpc, __: Sequence[Any]) -> Any:
        return answer

    return fault


def answers_nothing_after(method: str) -> Fault:
    """It arrives and does its work, and the answer is lost."""

    async def fault(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        await faulty.rpc(method, params)
        raise RpcUnavailable("the connection broke")

    return fault
