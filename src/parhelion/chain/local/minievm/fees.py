"""eth_feeHistory: the base fee never changes, what was tipped is told as it was."""

from __future__ import annotations

from typing import Any

from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import quantity, to_list, to_quantity
from parhelion.chain.local.minievm.errors import invalid_params
from parhelion.chain.local.minievm.limits import (
    BASE_FEE_WEI,
    FEE_HISTORY_BLOCKS,
    PERCENTILE_LIMIT,
)
from parhelion.chain.local.minievm.records import Header, Mined


def history(chain: Chain, count: object, newest: Header, percentiles: object) -> dict[str, Any]:
    """Fees of up to `count` blocks that end with `newest`."""
    asked = count if isinstance(count, int) else to_quantity(count)
    blocks = min(asked, FEE_HISTORY_BLOCKS, newest.number + 1)
    wanted = _percentiles(percentiles)
    oldest = newest.number - blocks + 1
    numbers = range(oldest, newest.number + 1)
    headers = [header for number in numbers if (header := chain.header(number)) is not None]
    answer: dict[str, Any] = {
        "oldestBlock": quantity(max(0, oldest) if blocks else 0),
        "baseFeePerGas": [quantity(BASE_FEE_WEI)] * (len(headers) + 1 if headers else 0),
        "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
    }
    if wanted:
        answer["reward"] = [
            rewards(chain.file.transactions(header.number), header.gas_used, wanted)
            for header in headers
        ]
    return answer


def rewards(mined: list[Mined], gas_used: int, percentiles: list[float]) -> list[str]:
    """At each percentile of the block's gas, the tip that it paid."""
    by_tip = sorted((item.gas_price - BASE_FEE_WEI, item.gas_used) for item in mined)
    found: list[str] = []
    for percentile in percentiles:
        reached, passed = 0, 0
        for tip, gas in by_tip:
            reached = tip
            passed += gas
            if passed >= gas_used * percentile / 100:
                break
        found.append(quantity(max(0, reached)))
    return found


def _percentiles(value: object) -> list[float]:
    if value is None:
        return []
    found: list[float] = []
    for item in to_list(value, PERCENTILE_LIMIT, "percentiles"):
        if isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item <= 100:
            raise invalid_params("invalid reward percentile")
        if found and item < found[-1]:
            raise invalid_params("invalid reward percentile: they must rise")
        found.append(float(item))
    return found
