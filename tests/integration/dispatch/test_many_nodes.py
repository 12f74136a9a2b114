"""Hundreds of nodes on one coordinator whose shell allows it few open files."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from parhelion.testing.processes import start, start_pool

NODES = 300
FEW_FILES = 128
BODY = {"prompt": "hello", "max_tokens": 4}


@contextmanager
def few_files() -> Iterator[None]:
    """What is started here may open few files, as under a shell with such a soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sockets are not counted there")
def test_three_hundred_nodes_fit_where_the_shell_allows_fewer_files(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with few_files():
            pool = start_pool(tmp_path / "pool")
        stack.callback(pool.kill)
        digest = pool.call("GET", "/v1/models")[2]["data"][0]["digest"]
        where = pool.api.removeprefix("http://")
        arguments = [where, "--nodes", str(NODES), "--digest", digest]
        nodes = start(arguments, tmp_path / "nodes.log", module="bench.nodes")
        stack.callback(nodes.kill)

        listed = pool.call("GET", "/v1/nodes")[2]["data"]
        assert {node["state"] for node in listed} == {"ready"}
        assert len({node["peer"] for node in listed}) == NODES
        served = {_peer(pool.call("POST", "/v1/completions", BODY)) for _ in range(20)}
        assert len(served) > 1, "more than one of them works"


def _peer(answer: tuple[int, dict[str, str], dict[str, dict[str, list[str]]]]) -> str:
    status, _headers, told = answer
    assert status == 200, told
    (peer,) = told["usage"]["nodes"]
    return peer
