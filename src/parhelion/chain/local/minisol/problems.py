"""JSON-RPC errors with Solana's own codes."""

from __future__ import annotations

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
PREFLIGHT_FAILURE = -32002
SIGNATURE_FAILURE = -32003
NODE_UNHEALTHY = -32005
UNSUPPORTED_VERSION = -32015
MIN_CONTEXT_SLOT = -32016


class RpcError(Exception):
    """An answer's `error` member."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> dict[str, Any]:
        """The member itself; `data` only where there is some."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return body


def invalid_params(message: str) -> RpcError:
    """What a client can mend by asking differently."""
    return RpcError(INVALID_PARAMS, message)
