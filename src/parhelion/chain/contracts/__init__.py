"""The compiled contracts that the package ships; the sources are in `contracts/`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec


class Contract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One compiled contract: `bytecode` deploys it, `runtime` is what then lies at its address."""

    contract: str
    source_sha256: str
    compiler: str
    storage: dict[str, int]
    abi: list[dict[str, Any]]
    bytecode: str
    runtime: str

    @property
    def runtime_code(self) -> bytes:
        """The code that lies at the contract's address; it has no immutables to fill in."""
        return bytes.fromhex(self.runtime.removeprefix("0x"))


def load(name: str) -> Contract:
    """The shipped artefact `name`: `usdc` or `multicall`."""
    text = files(__name__).joinpath(f"{name}.json").read_bytes()
    return msgspec.json.decode(text, type=Contract)
