"""Who answers at an address is known before a model is loaded for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from parhelion.bootstrap import knock
from parhelion.config import Config
from parhelion.identity import lock_node
from parhelion.words import Problem, ProblemCode


class Quiet(BaseHTTPRequestHandler):
    """Another program: it answers 404 to everything."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def other() -> Iterator[str]:
    """host:port of a web server that is no coordinator."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_nobody_there_may_pass_and_is_told(tmp_path: Path) -> None:
    problem = await knock(Config(data=str(tmp_path)), "127.0.0.1:9")
    assert problem is not None
    assert problem.code is ProblemCode.LINK_BROKEN
    assert problem.hint


async def test_another_program_there_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(Problem) as caught:
        await knock(Config(data=str(tmp_path)), other)
    assert caught.value.code is ProblemCode.LINK_REFUSED
    assert "is not a Parhelion coordinator" in caught.value.message


async def test_a_plain_server_given_as_https_gets_the_hint_to_try_http(
    tmp_path: Path, other: str
) -> None:
    with pytest.raises(Problem) as caught:
        await knock(Config(data=str(tmp_path)), f"https://{other}")
    assert caught.value.code is ProblemCode.LINK_REFUSED
    assert "does not speak https" in caught.value.message
    assert f"http://{other}" in caught.value.hint


async def test_a_folder_in_use_and_a_malformed_address_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        await knock(Config(data=str(tmp_path)), "nowhere")
    assert caught.value.code is ProblemCode.INVALID_REQUEST
    lock = lock_node(tmp_path)
    with pytest.raises(Problem, match="another node runs"):
        await knock(Config(data=str(tmp_path)), "127.0.0.1:9")
    lock.release()
    assert (await knock(Config(data=str(tmp_path)), "127.0.0.1:9")) is not None
