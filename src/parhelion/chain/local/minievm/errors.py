"""JSON-RPC errors with geth's codes and words, by which stock clients tell them apart."""

from __future__ import annotations

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
REVERTED = 3


class RpcError(Exception):
    """What a method answers instead of a result; `data` is a revert's returned bytes."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def invalid_params(message: str) -> RpcError:
    """The caller's arguments cannot be read."""
    return RpcError(INVALID_PARAMS, message)


def refused(message: str) -> RpcError:
    """The request was understood and the chain says no."""
    return RpcError(SERVER_ERROR, message)
