"""A minisol process on a folder: started, called, killed and started again by a test."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_WAIT_S = 20.0
CALL_WAIT_S = 20.0
STOP_WAIT_S = 10.0


class RpcRefusal(Exception):
    """The `error` member of an answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


class MinisolProcess:
    """One chain's process; `ready` is the line that it printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it on its folder, on a new port; returns when it answers."""
        command = [sys.executable, "-m", "parhelion.chain.local.minisol", "--json"]
        command += ["--data", str(self.folder), *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"minisol ended with {self.process.wait(STOP_WAIT_S)} at its start")
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["rpc"]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(STOP_WAIT_S)

    def restart(self) -> None:
        """kill -9, and start again on the same folder."""
        self.close(kill=True)
        self.start()

    def close(self, *, kill: bool = False) -> int:
        """End it, kindly unless `kill`; its exit status."""
        if self.process.poll() is None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
        status = self.process.wait(STOP_WAIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Any body at all: the HTTP status and what came back."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_WAIT_S)
        try:
            fields = {"content-type": "application/json"} if headers is None else headers
            connection.request("POST", "/", body, fields)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, method: str, *params: Any) -> Any:
        """A method's result; RpcRefusal for an error."""
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        _, answer = self.post(json.dumps(asked).encode())
        said = json.loads(answer)
        if "error" in said:
            raise RpcRefusal(said["error"])
        return said["result"]

    async def acall(self, method: str, params: Sequence[Any]) -> Any:
        """`call` in the form that `parhelion.chain.solana` takes."""

        return await asyncio.to_thread(self.call, method, *params)

    def fund(self, address: str, *, lamports: int = 0, usdc_micro: int = 0) -> str:
        """Give money to a wallet; the transaction's signature."""
        gift = {"lamports": lamports, "usdc": str(usdc_micro)}
        return self.call("minisol_fund", address, gift)["signature"]
