"""A pool as a person starts it: `parhelion up` with the packaged model, real processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.testing.processes import Running, start_join, start_run, start_up
from tests.acceptance.members import STREAM, prompt, whole_answers

ROOT = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).parent / "clients"


@pytest.fixture(scope="session")
def client_library() -> Callable[[str, str], list[str]]:
    """The command for one of our probes in the environment of a client library.

    Environments are "litellm" and "openai" (Python) and "node"; the test is skipped without them.
    """

    def command(environment: str, probe: str) -> list[str]:
        if environment == "node":
            node = shutil.which("node")
            _need(node is not None, "no node on the PATH")
            _need((PROBES / "node" / "node_modules").exists(), "its packages are not installed")
            assert node is not None
            return [node, str(PROBES / "node" / probe)]
        python = ROOT / f".venv-clients-{environment}" / "bin" / "python"
        _need(python.exists(), f"no {python.parent.parent.name}")
        return [str(python), str(PROBES / probe)]

    return command


def _need(there: bool, what: str) -> None:
    if there:
        return
    # On CI a probe that is skipped would look like one that passed.
    if os.environ.get("CI"):
        pytest.fail(f"{what}: `make test-all` makes it")
    pytest.skip(f"{what}: `make test-all` makes it")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """One running `parhelion up` for all tests that leave it as they found it."""
    running = start_up(tmp_path_factory.mktemp("pool") / "data")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def free_pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """A private pool, rates 0, with one real node: nobody has a key of it."""
    folder = tmp_path_factory.mktemp("free")
    running = start_run(folder / "pool", 1)
    node = start_join(folder / "node", running.api.removeprefix("http://"))
    yield running
    assert node.stop() == 0
    assert running.stop() == 0


@pytest.fixture
def begun() -> Iterator[Callable[[Running], Running]]:
    """Marks a process as this test's own: it is killed at the end, however the test ends."""
    mine: list[Running] = []

    def mark(running: Running) -> Running:
        mine.append(running)
        return running

    yield mark
    for running in reversed(mine):
        running.kill()


@pytest.fixture(scope="session")
def whole_stories(
    tmp_path_factory: pytest.TempPathFactory, smollm2: Path
) -> list[tuple[str, list[int]]]:
    """Texts and ids of the stories of `members` as the whole model tells them, undisturbed."""
    return whole_answers(tmp_path_factory.mktemp("whole"), [*map(prompt, range(6)), STREAM])
