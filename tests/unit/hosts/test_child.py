"""The supervised child: frames both ways, death as an event, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from parhelion.hosts import Child, ChildGone, backoff_s
from parhelion.hosts import child as supervising
from parhelion.hosts.retry import LONGEST_WAIT_S

CHILD = """
import os, signal, sys
from parhelion.hosts import claim_pipe
pipe = claim_pipe()
print("a native library prints to standard output")
while (body := pipe.read()) is not None:
    if body == b"die":
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    pipe.write(body[::-1])
"""


class Heard:
    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.gone: asyncio.Future[ChildGone] = asyncio.get_running_loop().create_future()


async def start(folder: Path, code: str = CHILD) -> tuple[Child, Heard]:
    (folder / "the_child.py").write_text(code)
    heard = Heard()
    child = await Child.start(
        "tested",
        "the_child",
        [],
        on_frame=heard.frames.put_nowait,
        on_exit=heard.gone.set_result,
        env={"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    return child, heard


async def test_frames_come_back_whole_and_in_order_whatever_the_child_prints(
    tmp_path: Path,
) -> None:
    child, heard = await start(tmp_path)
    sent = [b"abc", b"", os.urandom(3_000_000)]
    for body in sent:
        child.send(body)
    got = [await asyncio.wait_for(heard.frames.get(), 20) for _ in sent]
    assert got == [body[::-1] for body in sent]
    await child.stop()
    assert (await heard.gone).returncode == 0


async def test_the_frames_of_one_turn_are_one_write(tmp_path: Path) -> None:
    child, heard = await start(tmp_path)
    stdin = child._process.stdin
    assert stdin is not None
    writes: list[bytes] = []
    write = stdin.write
    stdin.write = lambda data: (writes.append(bytes(data)), write(data))[1]  # type: ignore[method-assign]
    for body in (b"abc", b"def", b"ghi"):
        child.send(body)
    got = [await asyncio.wait_for(heard.frames.get(), 20) for _ in range(3)]
    assert got == [b"cba", b"fed", b"ihg"] and len(writes) == 1
    await child.stop()


async def test_what_was_sent_before_a_stop_is_read(tmp_path: Path) -> None:
    child, heard = await start(tmp_path)
    child.send(b"abc")
    await child.stop(grace_s=20.0)
    assert heard.frames.get_nowait() == b"cba"


async def test_a_killed_child_is_an_event_with_its_last_words(tmp_path: Path) -> None:
    child, heard = await start(tmp_path)
    child.send(b"die")
    gone = await asyncio.wait_for(heard.gone, 20)
    assert gone.returncode == -signal.SIGKILL
    assert "last words" in gone.last_words
    with pytest.raises(ChildGone):
        child.send(b"anyone there?")


async def test_a_child_that_claims_a_giant_frame_is_ended(tmp_path: Path) -> None:
    claim = "sys.stdout.buffer.write(b'\\xff' * 4); sys.stdout.flush()"
    code = f"import sys, time; {claim}; time.sleep(60)"
    _child, heard = await start(tmp_path, code)
    assert (await asyncio.wait_for(heard.gone, 20)).returncode == -signal.SIGKILL


async def test_a_child_that_does_not_end_on_a_closed_pipe_is_killed(tmp_path: Path) -> None:
    child, heard = await start(tmp_path, "import time; time.sleep(60)")
    await child.stop(grace_s=0.2)
    assert (await heard.gone).returncode == -signal.SIGKILL


async def test_a_child_whose_readers_were_cancelled_can_still_be_stopped(tmp_path: Path) -> None:
    child, _heard = await start(tmp_path)
    for task in child._tasks:
        task.cancel()
    await asyncio.wait_for(child.stop(grace_s=0.1), 10)


async def test_a_child_that_closes_its_pipe_and_stays_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "EXIT_WAIT_S", 0.1)
    _child, heard = await start(tmp_path, "import os, time; os.close(1); time.sleep(60)")
    assert (await asyncio.wait_for(heard.gone, 20)).returncode == -signal.SIGKILL


async def test_a_killed_child_that_the_machine_does_not_let_go_of_is_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "KILLED_WAIT_S", 0.1)
    child, heard = await start(tmp_path)
    end = child._process.kill
    # What a driver that holds it in the kernel amounts to.
    monkeypatch.setattr(child._process, "kill", lambda: None)
    child.kill()
    assert (await asyncio.wait_for(heard.gone, 5)).returncode is None
    with pytest.raises(ChildGone):
        child.send(b"anyone there?")
    end()
    await asyncio.wait_for(child._process.wait(), 5)


def test_waits_double_up_to_a_cap_and_are_spread() -> None:
    waits = [backoff_s(failures, 0.999) for failures in range(40)]
    assert waits == sorted(waits)
    assert waits[1] == pytest.approx(2 * waits[0])
    assert max(waits) <= LONGEST_WAIT_S
    assert backoff_s(3, 0.0) == pytest.approx(backoff_s(3, 0.999) / 2, rel=0.01)
