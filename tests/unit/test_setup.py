"""`make` and scripts/make-venv on machines that are not as one would like them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE_VENV = ROOT / "scripts" / "make-venv"

# Stands in for an interpreter: it says its version, and makes a folder instead of an environment.
FAKE = """#!/bin/sh
case "$1" in
--version) echo "Python {version}" ;;
-c) case "$2" in *version_info*) exit {unsupported} ;; esac ;;
-m) if [ "$2" = venv ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi ;;
esac
"""


def interpreter(file: Path, version: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    minor = int(version.split(".")[1])
    file.write_text(FAKE.format(version=version, unsupported=int(not 11 <= minor < 14)))
    file.chmod(0o755)
    return file


def make_venv(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `folder`, where only the fakes in its bin/ are found beside the tools."""
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", str(MAKE_VENV), ".venv"],
        cwd=folder,
        env={"PATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone in a folder whose name has a space."""
    made = tmp_path / "a clone"
    # Whatever the machine has under these names must not be found.
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        interpreter(made / "bin" / name, "3.9.6")
    return made


def test_the_first_python_that_will_do_is_taken(folder: Path) -> None:
    interpreter(folder / "bin" / "python3", "3.14.0")
    interpreter(folder / "bin" / "python3.13", "3.13.5")
    made = make_venv(folder)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "setup: .venv with Python 3.13.5\n"


def test_without_one_it_says_what_there_is_and_what_to_do(folder: Path) -> None:
    interpreter(folder / "bin" / "python3", "3.14.0")
    refused = make_venv(folder)
    assert refused.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found (python3 is Python 3.14.0)" in refused.stderr
    assert "hint: install one" in refused.stderr
    assert not (folder / ".venv").exists()


def test_the_python_that_was_named_is_taken_and_no_other(folder: Path) -> None:
    named = interpreter(folder / "else where" / "python", "3.12.4")
    made = make_venv(folder, PYTHON=str(named))
    assert made.stdout == "setup: .venv with Python 3.12.4\n"
    shutil.rmtree(folder / ".venv")
    interpreter(folder / "bin" / "python3", "3.12.0")
    refused = make_venv(folder, PYTHON=str(interpreter(named, "3.10.1")))
    assert refused.returncode == 1
    assert f"at PYTHON={named}" in refused.stderr and "3.10.1" in refused.stderr


def test_what_will_do_is_kept_and_what_was_moved_or_lost_its_python_is_made_again(
    folder: Path,
) -> None:
    interpreter(folder / "bin" / "python3", "3.11.2")
    assert make_venv(folder).stdout
    assert make_venv(folder).stdout == ""
    moved = folder.rename(folder.with_name("moved"))
    assert make_venv(moved).stdout == "setup: .venv with Python 3.11.2\n"
    python = moved / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("gone")
    assert make_venv(moved).stdout == "setup: .venv with Python 3.11.2\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
class TestSteps:
    """The Makefile's own steps, in a clone where everything is installed."""

    @pytest.fixture
    def clone(self, folder: Path) -> Path:
        shutil.copyfile(ROOT / "Makefile", folder / "Makefile")
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
        interpreter(folder / "bin" / "python3", "3.11.2")
        assert make_venv(folder).returncode == 0
        stamps = folder / ".venv" / "stamps"
        stamps.mkdir()
        for name in ("venv", "dependencies", "dev"):
            (stamps / name).touch()
        return folder

    def make(self, clone: Path, *words: str) -> str:
        done = subprocess.run(
            ["make", *words],
            cwd=clone,
            env={"PATH": f"{clone / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_what_is_installed_is_not_installed_again(self, clone: Path) -> None:
        assert "up to date" in self.make(clone, "-n", ".venv/stamps/dev")

    def test_an_environment_that_cannot_run_is_made_again_with_all_in_it(self, clone: Path) -> None:
        python = clone / ".venv" / "bin" / "python"
        python.unlink()
        said = self.make(clone, "-n", ".venv/stamps/dev")
        assert "make-venv" in said and "requirements/dev.txt" in said

    def test_an_environment_of_a_clone_that_was_moved_is_made_again(self, clone: Path) -> None:
        said = self.make(clone.rename(clone.with_name("moved")), "-n", ".venv/stamps/dev")
        assert "make-venv" in said and "requirements/dev.txt" in said

    def test_a_step_that_was_interrupted_is_done_over_and_no_other(self, clone: Path) -> None:
        pip = clone / ".venv" / "bin" / "python"
        pip.write_text(f'#!/bin/sh\necho "$*" >> "{clone}/pip"\n')
        stamps = clone / ".venv" / "stamps"
        (stamps / "dev").unlink()
        self.make(clone, ".venv/stamps/dev")
        (stamps / "dev").unlink()
        (stamps / "dev.begun").touch()
        self.make(clone, ".venv/stamps/dev")
        plain, again = [
            line for line in (clone / "pip").read_text().splitlines() if " -m pip " in f" {line}"
        ]
        assert "--force-reinstall" not in plain and "--force-reinstall" in again
        assert sorted(path.name for path in stamps.iterdir()) == ["dependencies", "dev", "venv"]
