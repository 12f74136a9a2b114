"""Parhelion's own processes as a test starts them: one JSON line when ready, logs in a file."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

READY_DEADLINE_S = 90.0
"""A cold start with a model on two busy cores takes a few seconds; a factor for slow machines."""

ANSWER_DEADLINE_S = 120.0


CHAINS = "PARHELION_X402_LOCAL_CHAINS"
WITH_CHAINS = {CHAINS: "auto"}
"""For a pool that is paid on its two local chains, as `parhelion up` is for a person: a test says
that it wants them, because they are two processes more."""


class Running:
    """A started process: `ready` is the line it printed, `log` the file of its stderr."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.ready = ready
        self.log = log

    @property
    def api(self) -> str:
        """The API's address."""
        return str(self.ready["api"])

    @property
    def key(self) -> str | None:
        """The first key, where the pool has one."""
        return self.ready.get("key")

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """One request: status, headers in lower case, and the body (JSON where it is JSON)."""
        response = self._open(method, path, body, key, headers)
        raw = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        is_json = "json" in names.get("content-type", "")
        return response.status, names, json.loads(raw) if is_json and raw else raw

    def stream(
        self,
        path: str,
        body: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Generator[Any, None, None]:
        """The `data:` events of a streamed answer, decoded; "[DONE]" comes as that string.

        Closing the generator hangs up.
        """
        response = self._open("POST", path, {**body, "stream": True}, key, headers)
        if response.status != 200:
            raise AssertionError(f"{response.status}: {response.read()!r}")
        for line in response:
            if line.startswith(b"data: "):
                text = line[6:].strip().decode()
                yield text if text == "[DONE]" else json.loads(text)

    def _open(
        self,
        method: str,
        path: str,
        body: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
    ) -> http.client.HTTPResponse:
        where = urlsplit(self.api)
        connection = http.client.HTTPConnection(
            where.hostname or "", where.port, timeout=ANSWER_DEADLINE_S
        )
        sent = dict(headers or {})
        token = key if key is not None else self.key
        if token:
            sent.setdefault("authorization", f"Bearer {token}")
        payload = None
        if body is not None:
            sent.setdefault("content-type", "application/json")
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, payload, sent)
        return connection.getresponse()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self._ended(30)

    def stop(self, signal_number: int = signal.SIGINT, deadline_s: float = 60.0) -> int:
        """Ask it to drain and end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self._ended(deadline_s)

    def _ended(self, deadline_s: float) -> int:
        status = self.process.wait(deadline_s)
        # Its line was read when it was ready; a pipe left open would be a warning of the next test.
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    module: str = "parhelion",
    env: Mapping[str, str] | None = None,
    deadline_s: float = READY_DEADLINE_S,
) -> Running:
    """`python -m module arguments` once it printed its line; else AssertionError with the log."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            env={CHAINS: "never", **os.environ, **(env or {})},
        )
    line = _first_line(process, time.monotonic() + deadline_s)
    if line is None:
        process.kill()
        process.wait()
        raise AssertionError(f"{module} {arguments} was not ready:\n{log.read_text()[-4000:]}")
    return Running(process, json.loads(line), log)


def _first_line(process: subprocess.Popen[bytes], deadline_s: float) -> bytes | None:
    stdout = process.stdout
    assert stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
            return None
        byte = os.read(stdout.fileno(), 1)
        if not byte:
            return None
        line += byte
    return line


def start_up(data: Path, *more: str, env: Mapping[str, str] | None = None) -> Running:
    """`parhelion up --json` on free ports with its state under `data`."""
    data.mkdir(parents=True, exist_ok=True)
    arguments = ["up", "--json", "--data", str(data), "--api-port", "0", "--web-port", "0", *more]
    return start(arguments, data / "test.log", env=env)


def start_run(data: Path, need: int, *more: str, env: Mapping[str, str] | None = None) -> Running:
    """`parhelion run -n need --json`: a private pool that waits for its nodes."""
    data.mkdir(parents=True, exist_ok=True)
    ports = ["--api-port", "0", "--web-port", "0"]
    arguments = ["run", "-n", str(need), "--json", "--data", str(data), *ports, *more]
    return start(arguments, data / "test.log", env=env)


UNTIMED = {"PARHELION_NODES_PROBE": "false"}
"""For a pool that asks its nodes nothing of its own accord: only a test's prompts take slots."""


def start_pool(data: Path, *more: str, env: Mapping[str, str] | None = None) -> Running:
    """A paid coordinator without a node of its own (`parhelion.testing.pool`) on free ports."""
    data.mkdir(parents=True, exist_ok=True)
    arguments = ["--data", str(data), *more]
    return start(arguments, data / "test.log", module="parhelion.testing.pool", env=env)


def start_join(data: Path, address: str, *more: str) -> Running:
    """`parhelion join -s address --json`: a real node with the packaged model."""
    data.mkdir(parents=True, exist_ok=True)
    return start(["join", "-s", address, "--json", "--data", str(data), *more], data / "test.log")


def start_echo(data: Path, address: str, *more: str, tokens_per_s: float, slots: int) -> Running:
    """An echo node's process joined to the coordinator at `address`."""
    data.mkdir(parents=True, exist_ok=True)
    pace = ["--tokens-per-s", str(tokens_per_s), "--slots", str(slots)]
    arguments = ["-s", address, *pace, "--data", str(data), *more]
    return start(arguments, data / "test.log", module="parhelion.testing.echo_node")
