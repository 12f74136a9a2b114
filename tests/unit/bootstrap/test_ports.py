"""A start that cannot have its ports ends before anything slow began, and says what to do."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parhelion.bootstrap import pool, run_coordinator
from parhelion.bootstrap.ports import bind, listen, take_ports
from parhelion.config import ApiConfig, Config, WebConfig
from parhelion.store import FileLock
from parhelion.words import Problem, ProblemCode


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def settings(api: int = 0, web: int = 0, data: str = "") -> Config:
    return Config(data=data, api=ApiConfig(port=api), web=WebConfig(port=web))


@pytest.mark.parametrize("which", ["api", "web"])
async def test_a_port_in_use_ends_the_start_before_a_model_or_a_process(
    which: str, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it began although it cannot serve")

    monkeypatch.setattr(pool, "model_file", never)
    monkeypatch.setattr(pool, "local_node_process", never)
    data = tmp_path / "data"
    config = settings(**{which: taken}, data=str(data))
    with pytest.raises(Problem) as refused:
        await run_coordinator(
            config,
            need=1,
            free=False,
            local_node=True,
            models=(),
            on_ready=never,
            stop=asyncio.Event(),
        )
    assert refused.value.code is ProblemCode.CONFIG_INVALID
    assert f"Port {taken} at 127.0.0.1 is in use" in refused.value.message
    assert f"--{which}-port" in (refused.value.hint or "")
    # No key was made: the admin key is shown by the start that makes it, and by no other.
    assert list(data.iterdir()) == []


def test_a_coordinator_of_the_same_folder_is_named_before_its_ports(
    tmp_path: Path, taken: int
) -> None:
    (tmp_path / "parhelion.db").touch()
    lock = FileLock(tmp_path / "parhelion.db")
    with pytest.raises(Problem, match="in use by another process"):
        take_ports(settings(api=taken), tmp_path)
    lock.release()
    with pytest.raises(Problem, match="Port"):
        take_ports(settings(api=taken), tmp_path)


def test_ports_are_held_from_the_start_but_take_nobody_until_they_listen(tmp_path: Path) -> None:
    ports = take_ports(settings(), tmp_path)
    where = ports.api.getsockname()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, 5)
    listen(ports.api, "--api-port")
    socket.create_connection(where, 5).close()
    ports.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the second bind fails")
def test_of_two_that_are_bound_to_one_port_the_second_to_listen_is_told() -> None:
    first = bind("127.0.0.1", 0, "--api-port")
    port = first.getsockname()[1]
    second = bind("127.0.0.1", port, "--web-port")
    listen(first, "--api-port")
    with pytest.raises(Problem, match=f"Port {port} .* in use"):
        listen(second, "--web-port")
    first.close()
    second.close()


def test_the_other_port_is_given_back_when_one_cannot_be_had(taken: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(Problem):
        take_ports(settings(api=free, web=taken), tmp_path)
    bind("127.0.0.1", free, "--api-port").close()


def test_an_address_that_is_not_ours_is_a_problem_with_a_hint() -> None:
    with pytest.raises(Problem) as refused:
        bind("203.0.113.9", 0, "--api-port")
    assert refused.value.code is ProblemCode.CONFIG_INVALID
    assert "--host" in (refused.value.hint or "")
    with pytest.raises(Problem):
        bind("127.0.0.1", 70_000, "--api-port")
