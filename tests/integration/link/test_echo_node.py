"""The echo node as a process: it joins, serves, drains on SIGTERM, and says why it cannot."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from parhelion.link import Bye, Open, Register, Signed, Steps
from parhelion.words import Job

DIGEST = "ab" * 32


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "parhelion.testing.echo_node",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_it_joins_serves_and_drains_on_sigterm_with_status_0(
    door: Any, take_in: Any, tmp_path: Path
) -> None:
    cards: list[Register] = []
    said: list[Any] = []

    async def attend(carrier: Any) -> None:
        cards.append(await take_in(carrier))
        await carrier.send(
            Open(
                job=Job(
                    job="job",
                    attempt=1,
                    digest=DIGEST,
                    cache_scope="a",
                    prompt_ids=(1, 2),
                    max_tokens=30,
                    opening=b"o" * 32,
                )
            )
        )
        while True:
            said.append(await carrier.receive())

    door.script = attend
    process = await start(
        *("-s", door.address, "--tokens-per-s", "40", "--slots", "3", "--data", str(tmp_path / "d"))
    )
    assert process.stdout is not None
    line = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    assert line["peer"] == cards[0].card.peer
    assert [model.digest for model in cards[0].card.models] == [DIGEST]
    assert cards[0].card.slots == 3
    while not any(isinstance(message, Steps) for message in said):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    async with asyncio.timeout(20):  # Its last words may be read after its end is known.
        while not isinstance(said[-1], Bye):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    ids = [n for m in said if isinstance(m, Steps) for step in m.steps for n in step.ids]
    assert len(ids) == 30 and min(ids) >= 17
    assert any(isinstance(message, Signed) for message in said)
    assert said[-1].message == "SIGTERM"
    assert (tmp_path / "d" / "node.key").stat().st_mode & 0o777 == 0o600


async def test_a_refused_one_ends_with_status_1_and_the_hint(door: Any) -> None:
    async def refuse(carrier: Any) -> None:
        await carrier.receive()
        await carrier.close(Bye(code="link_refused", message="an invite is needed", hint="ask"))

    door.script = refuse
    process = await start("-s", door.address, "--digest", DIGEST)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1 and out == b""
    assert b"an invite is needed" in err and err.endswith(b"hint: ask\n")


async def test_a_pool_without_a_catalogue_is_named(door: Any) -> None:
    process = await start("-s", f"http://{door.address}/elsewhere", "--log-level", "error")
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1 and b"--digest" in err
