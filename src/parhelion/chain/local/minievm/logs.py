"""eth_getLogs: a filter as clients write it, within bounds."""

from __future__ import annotations

from collections.abc import Callable

from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import to_address, to_fields, to_hash, to_list
from parhelion.chain.local.minievm.errors import LIMIT_EXCEEDED, RpcError, invalid_params
from parhelion.chain.local.minievm.limits import FILTER_LIMIT, LOG_LIMIT, LOG_RANGE_BLOCKS
from parhelion.chain.local.minievm.records import LogFilter
from parhelion.chain.local.minievm.store import TOPICS
from parhelion.chain.local.minievm.views import View, log_view

FIELDS = ("address", "topics", "fromBlock", "toBlock", "blockHash")


def find(chain: Chain, value: object, number_at: Callable[[object], int]) -> list[View]:
    """The logs that a client's filter asks for."""
    fields = to_fields(value, FIELDS, "filter")
    first, last = _range(chain, fields, number_at)
    if last - first >= LOG_RANGE_BLOCKS:
        raise RpcError(
            LIMIT_EXCEEDED, f"block range is too wide: at most {LOG_RANGE_BLOCKS} blocks"
        )
    wanted = LogFilter(
        first_block=first,
        last_block=last,
        addresses=_choices(fields.get("address"), to_address, "address"),
        topics=_topics(fields.get("topics")),
    )
    found = chain.file.logs(wanted, LOG_LIMIT + 1)
    if len(found) > LOG_LIMIT:
        raise RpcError(LIMIT_EXCEEDED, f"query returned more than {LOG_LIMIT} results")
    return [log_view(log, tx_hash, block_hash) for log, tx_hash, block_hash in found]


def _range(
    chain: Chain, fields: dict[str, object], number_at: Callable[[object], int]
) -> tuple[int, int]:
    if fields.get("blockHash") is not None:
        if fields.get("fromBlock") is not None or fields.get("toBlock") is not None:
            raise invalid_params("cannot specify both BlockHash and FromBlock/ToBlock")
        found = chain.header_of(to_hash(fields["blockHash"]))
        if found is None:
            raise invalid_params("unknown block")
        return found.number, found.number
    first = number_at(fields.get("fromBlock") or "latest")
    last = number_at(fields.get("toBlock") or "latest")
    if first > last:
        raise invalid_params("invalid block range params")
    return first, min(last, chain.head.number)


def _topics(value: object) -> tuple[tuple[bytes, ...], ...]:
    if value is None:
        return ()
    places = to_list(value, TOPICS, "topics")
    return tuple(_choices(place, to_hash, "topics") for place in places)


def _choices(value: object, read: Callable[[object], bytes], what: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(read(item) for item in to_list(value, FILTER_LIMIT, what))  # pyright: ignore[reportUnknownArgumentType]
    return (read(value),)
