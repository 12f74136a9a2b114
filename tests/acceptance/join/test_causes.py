"""`parhelion join` that fails, as its operator sees it: the cause, what to do, and whether it goes
on trying. The commands of all causes run side by side."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.sync.server import ServerConnection, serve

from parhelion.identity import NodeKey
from parhelion.link import SUBPROTOCOL
from parhelion.link.messages import CoordinatorHello
from parhelion.testing.processes import Running

OTHER = NodeKey(b"o" * 32)

SAID_LIMIT_S = 60.0
"""Eight commands at once on two cores, two of them with a model to load; a factor for more."""

TIME_OUT_S = 10.0
"""How long a dial waits for an answer."""

WRONG_CLOCK = """
from parhelion.bootstrap import SystemClock
from parhelion.cli import main
right = SystemClock.now_ms
SystemClock.now_ms = lambda self: right(self) + 3_600_000
main()
"""
"""The command as it is, on a machine whose clock is an hour ahead."""

ENDS, WAITS = 1, None
"""Its exit code, or none: it goes on trying."""

CAUSES = {
    "refused": (WAITS, "nobody listens at", "is the coordinator running"),
    "wrong key": (ENDS, "another coordinator answered", "join"),
    "invite": (ENDS, "admits nodes by invite", "#INVITE included"),
    "version": (ENDS, "speaks version 2 of the link, this side 1", "same Parhelion"),
    "model missing": (ENDS, "knows none of the models", "parhelion models add"),
    "clock": (WAITS, "this node's clock is 3600 s ahead", "NTP"),
    "banned": (ENDS, "banned by the pool's owner: noise", "nodes allow"),
    "drained": (WAITS, "drained by the pool's owner: fan", "nodes undrain"),
}
"""Every cause that passes quickly, and two that an owner makes: its words and what to do."""


@dataclass
class Said:
    """A join that was started, and the file of its standard error."""

    process: subprocess.Popen[bytes]
    log: Path

    def until(self, *words: str, deadline_s: float = SAID_LIMIT_S) -> str:
        """What it said, once all these words are in it."""
        end_s = time.monotonic() + deadline_s
        while not all(word in (said := self.log.read_text()) for word in words):
            assert time.monotonic() < end_s, said
            time.sleep(0.05)
        return said


def begin(folder: Path, address: str, *more: str, code: str = "") -> Said:
    """Start `parhelion join -s address`, or the same after this code."""
    folder.mkdir(exist_ok=True)
    program = ["-c", code] if code else ["-m", "parhelion"]
    words = [sys.executable, *program, "join", "-s", address, "--data", str(folder), *more]
    with (folder / "stderr").open("wb") as sink:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sink,
            env={**os.environ, "PARHELION_LOG_LEVEL": "warning"},
        )
    return Said(process, folder / "stderr")


@contextlib.contextmanager
def newer() -> Iterator[str]:
    """A coordinator of the link's next version; its address."""

    def greet(ws: ServerConnection) -> None:
        ws.recv()
        hello = CoordinatorHello(
            version=2, peer=OTHER.peer, nonce=bytes(32), ephemeral=bytes(32), signature=bytes(64)
        )
        ws.send(msgspec.msgpack.encode(hello))
        ws.recv()

    spoken: Any = [SUBPROTOCOL]
    with serve(greet, "127.0.0.1", 0, subprotocols=spoken) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        serving.join(5)


def unknown_model(smollm2: Path, folder: Path) -> Path:
    """The same model as another artefact: a byte after the last tensor is nobody's."""
    file = Path(shutil.copy(smollm2, folder / "mine.gguf"))
    with file.open("ab") as tail:
        tail.write(b"\0")
    return file


def decided(pool: Running, folder: Path, what: str, reason: str) -> Path:
    """A node's folder about whose key the pool's owner has decided."""
    folder.mkdir()
    path = f"/v1/nodes/{NodeKey.load_or_create(folder / 'node.key').peer}/{what}"
    admin = (pool.log.parent / "admin.key").read_text().strip()
    assert pool.call("POST", path, {"reason": reason}, key=admin)[0] == 200
    return folder


@pytest.fixture(scope="module")
def joins(
    tmp_path_factory: pytest.TempPathFactory, plain_pool: Running, invite: str, smollm2: Path
) -> Iterator[dict[str, Said]]:
    """A join for each cause, all at once."""
    folder = tmp_path_factory.mktemp("causes")
    pool = plain_pool.api.removeprefix("http://")
    good, port = f"{pool}#{invite}", pool.rpartition(":")[2]
    mine = unknown_model(smollm2, folder)
    with newer() as next_version, socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
        begun = {
            "model missing": begin(folder / "model", good, "-m", str(mine)),
            "clock": begin(folder / "clock", good, code=WRONG_CLOCK),
            "refused": begin(folder / "refused", nobody),
            "wrong key": begin(
                folder / "key", f"/ip4/127.0.0.1/tcp/{port}/p2p/{OTHER.peer}#{invite}"
            ),
            "invite": begin(folder / "invite", pool),
            "version": begin(folder / "version", next_version),
            "banned": begin(decided(plain_pool, folder / "banned", "ban", "noise"), good),
            "drained": begin(decided(plain_pool, folder / "drained", "drain", "fan"), good),
        }
        yield begun
        for said in begun.values():
            if said.process.poll() is None:
                said.process.kill()
            said.process.wait(30)


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_is_named_with_what_to_do(cause: str, joins: dict[str, Said]) -> None:
    code, words, hint = CAUSES[cause]
    join = joins[cause]
    if code is ENDS:
        assert join.process.wait(SAID_LIMIT_S) == ENDS
        cause, _, todo = join.log.read_text().partition("error: ")[2].partition("\n\nhint: ")
        assert words in cause and hint in todo and todo.count("\n") == 1
        return
    said = join.until(words, "hint")
    assert hint in said.partition("hint")[2]
    assert join.process.poll() is None, "what may pass is tried again"
    join.process.send_signal(signal.SIGINT)
    assert join.process.wait(SAID_LIMIT_S) == 0


@pytest.mark.slow
def test_silence_is_a_time_out_that_is_named_and_waited_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        join = begin(tmp_path / "node", address)
        try:
            said = join.until(f"no answer from http://{address} within {TIME_OUT_S:g} s", "hint: ")
            assert "firewall" in said.partition("hint: ")[2]
            assert join.process.poll() is None, "what may pass is tried again"
        finally:
            join.process.kill()
            join.process.wait(30)
