"""A real node reaches its pool through an HTTP proxy, by ws and by wss, and only through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.certificates import Authority
from parhelion.testing.processes import Running, start


def node(folder: Path, address: str, digest: str, env: dict[str, str]) -> Running:
    folder.mkdir()
    words = ["-s", address, "--digest", digest, "--data", str(folder), "--tokens-per-s", "100"]
    return start(
        words, folder / "log", module="parhelion.testing.echo_node", env=env, deadline_s=20
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_node_joins_through_a_connect_proxy(
    scheme: str,
    plain_pool: Running,
    tls_pool: Running,
    authority: Authority,
    proxy: Any,
    digest: str,
    invite: str,
    tmp_path: Path,
) -> None:
    pool = plain_pool if scheme == "http" else tls_pool
    port = urlsplit(pool.api).port
    # No resolver knows this name: whoever arrives came through the proxy.
    address = f"/dns4/pool.test/tcp/{port}/{scheme}/p2p/{pool.ready['coordinator']}#{invite}"
    env = {f"{scheme.upper()}_PROXY": proxy.url, "SSL_CERT_FILE": str(authority.file)}
    joined = node(tmp_path / "node", address, digest, env)
    try:
        assert proxy.asked == [f"CONNECT pool.test:{port} HTTP/1.1"]
    finally:
        assert joined.stop() == 0


def test_no_proxy_is_honoured_and_a_proxy_that_refuses_is_named(
    plain_pool: Running, proxy: Any, parhelion: Any, tmp_path: Path
) -> None:
    port = urlsplit(plain_pool.api).port
    join = ("join", "-s", f"pool.test:{port}", "--data", str(tmp_path))
    wrong = proxy.url.replace("me:secret@", "")
    for env, wanted in (
        ({"HTTP_PROXY": wrong}, "403"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "is not reached"),
        ({"HTTP_PROXY": wrong, "NO_PROXY": "pool.test"}, "the name in"),
    ):
        said = knocked(parhelion, join, env)
        assert wanted in said, said
        assert ("HTTP_PROXY" in said) == ("NO_PROXY" not in env), said


def knocked(parhelion: Any, join: tuple[str, ...], env: dict[str, str]) -> str:
    """What `join` says of whoever does not answer, before it waits."""
    import asyncio
    import os
    import sys

    async def run() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "parhelion", *join),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **env},
        )
        assert process.stderr is not None
        said = ""
        try:
            async with asyncio.timeout(20):
                while "hint:" not in said:
                    line = await process.stderr.readline()
                    assert line, said
                    said += line.decode()
        finally:
            process.kill()
            await process.wait()
        return said

    return asyncio.run(run())
