"""The nginx example of docs/operations.md, run by a real nginx before a pool."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.certificates import Authority
from parhelion.testing.processes import Running, start, start_pool

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None, reason="nginx is not installed (apt-get install nginx)"
)

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
START_DEADLINE_S = 10.0
TOKENS = 20
TOKENS_PER_S = 20.0


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, plain_pool: Running, authority: Authority
) -> Iterator[str]:
    with nginx_before(plain_pool, tmp_path_factory.mktemp("nginx"), authority) as address:
        yield address


@contextlib.contextmanager
def nginx_before(pool: Running, folder: Path, authority: Authority) -> Iterator[str]:
    """The example's server with this test's ports and certificate; its address."""
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cert, key = authority.sign("front", ["DNS:localhost"])
    example = re.search(r"```nginx\n(.+?)```", GUIDE.read_text(), re.DOTALL)
    assert example
    server = example[1]
    for written, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/pool.example.pem", str(cert)),
        ("/etc/ssl/pool.example.key", str(key)),
        ("http://127.0.0.1:3001", pool.api),
    ):
        assert written in server
        server = server.replace(written, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{server}}}\n"
    )
    words = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline_s, "nginx did not start"
            time.sleep(0.05)
    try:
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_a_node_joins_and_a_stream_arrives_token_by_token_through_nginx(
    front: str,
    plain_pool: Running,
    authority: Authority,
    digest: str,
    invite: str,
    tmp_path: Path,
) -> None:
    words = ["-s", f"{front}#{invite}", "--digest", digest, "--data", str(tmp_path)]
    node = start(
        [*words, "--tokens-per-s", str(TOKENS_PER_S)],
        tmp_path / "log",
        module="parhelion.testing.echo_node",
        env={"SSL_CERT_FILE": str(authority.file)},
    )
    try:
        ask = {
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": TOKENS,
            "stream": True,
        }
        request = urllib.request.Request(
            f"{front}/v1/chat/completions",
            json.dumps(ask).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {plain_pool.key}"},
        )
        context = ssl.create_default_context(cafile=authority.file)
        came_s: list[float] = []
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    came_s.append(time.monotonic())
        took_s = TOKENS / TOKENS_PER_S
        assert len(came_s) > TOKENS / 2
        # Buffered they would all come at the end, within a few milliseconds.
        assert came_s[-1] - came_s[0] > took_s / 2
        gaps_s = [later - sooner for sooner, later in itertools.pairwise(came_s)]
        assert max(gaps_s) < took_s / 2
    finally:
        assert node.stop() == 0


def test_metrics_stay_closed_behind_the_proxy(front: str, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{front}/metrics", context=context, timeout=10)
    assert refused.value.code in {401, 403}


@pytest.mark.slow
def test_a_pool_with_default_settings_asks_who_comes_through_the_proxy_for_an_invite(
    authority: Authority, parhelion: Any, smollm2: Path, tmp_path: Path
) -> None:
    pool = start_pool(tmp_path / "pool")
    env = {"SSL_CERT_FILE": str(authority.file)}
    try:
        with nginx_before(pool, tmp_path, authority) as address:
            refused = parhelion("join", "-s", address, "--data", str(tmp_path / "a"), env=env)
            assert refused.returncode == 1
            assert "this pool admits nodes by invite" in refused.stderr
            admin = (pool.log.parent / "admin.key").read_text().strip()
            made = pool.call("POST", "/v1/invites", {"uses": 1, "ttl_s": 60}, key=admin)[2]
            digest = str(pool.call("GET", "/v1/models")[2]["data"][0]["digest"])
            for name, where in (("b", f"{address}#{made['invite']}"), ("c", pool.api)):
                words = ["-s", where, "--digest", digest, "--data", str(tmp_path / name)]
                log, module = tmp_path / f"{name}.log", "parhelion.testing.echo_node"
                node = start(words, log, module=module, env=env)
                assert node.stop() == 0, "it was let in"
    finally:
        assert pool.stop() == 0
