"""How far a start is comes from what is counted: bytes that are hashed, weights that are loaded."""

from __future__ import annotations

from pathlib import Path

from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.models.digests import READ_BYTES, file_digest


async def test_a_host_tells_each_percent_of_its_load_once_and_then_that_it_proves(
    smollm2: Path,
) -> None:
    told: list[tuple[str, int | None]] = []
    host = await EngineHost.start(
        smollm2,
        "d" * 64,
        EngineConfig(),
        lambda event: None,
        lambda coming: told.append((coming.phase, coming.percent)),
    )
    await host.stop()
    assert told.pop() == ("proving", None)
    percents = [percent for phase, percent in told if phase == "loading" and percent is not None]
    assert len(percents) == len(told), "nothing else is said while weights are loaded"
    assert percents == sorted(set(percents)) and percents[-1] == 100
    assert len(percents) > 2


def test_a_digest_tells_each_percent_once_and_a_remembered_one_nothing(tmp_path: Path) -> None:
    path, told = tmp_path / "file", list[int]()
    path.write_bytes(b"x" * (3 * READ_BYTES + 1))
    first = file_digest(path, tmp_path, told.append)
    assert told == [33, 66, 99, 100]
    told.clear()
    assert file_digest(path, tmp_path, told.append) == first
    assert told == []
