"""Both local chains once for all tests; each test has a wallet, a data folder and a shop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.minisol import MinisolProcess
from tests.integration.buyer.shop import EVM, SOLANA, Shop
from tests.integration.chain.minievm.processes import Evm, minievm

SLOT_MS = 100


@pytest.fixture(scope="session")
def minisol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinisolProcess]:
    process = MinisolProcess(tmp_path_factory.mktemp("minisol"), "--slot-ms", str(SLOT_MS))
    yield process
    process.close(kill=True)


@pytest.fixture(scope="session")
def evm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    with minievm(tmp_path_factory.mktemp("minievm")) as node:
        yield node


@pytest.fixture
def shop(minisol: MinisolProcess, evm: Evm) -> Iterator[Shop]:
    made = Shop(minisol.url, evm.rpc)
    made.open()
    yield made
    made.close()


@dataclass
class Person:
    """Somebody at a command line, with a wallet and a data folder that knows both chains."""

    run: Callable[..., int]
    capture: pytest.CaptureFixture[str]
    folder: Path

    @property
    def wallet(self) -> Path:
        return self.folder / "wallet.json"

    def types(self, *words: str) -> tuple[int, str, str]:
        where = ["--wallet", str(self.wallet), "--data", str(self.folder)]
        code = self.run([*words, *where])
        out, err = self.capture.readouterr()
        self.secrets_stay(out + err)
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self.types(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def usdc(self) -> dict[str, int]:
        rows = self.json("wallet", "balance")["data"]
        return {row["network"]: int(row["usdc"]) for row in rows}

    def secrets_stay(self, said: str) -> None:
        file = json.loads(self.wallet.read_text())
        for secret in (file["solana"]["secret"], file["evm"]["secret"].removeprefix("0x")):
            assert secret not in said and secret[:20] not in said


@pytest.fixture
def person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], minisol: MinisolProcess, evm: Evm
) -> Person:
    from parhelion.cli.dispatch import run

    rows = [
        {"network": SOLANA, "rpc": minisol.url, "local": True},
        {"network": EVM, "rpc": evm.rpc, "local": True},
    ]
    told = {"api": "http://127.0.0.1:1", "web": "", "pid": 1, "chains": rows}
    (tmp_path / "api.json").write_text(json.dumps(told))
    made = Person(run, capsys, tmp_path)
    assert made.types("wallet", "new")[0] == 0
    return made
