"""Builds llama.cpp once on this machine, installs it, and proves it: `make install` runs this.

The source is llama-cpp-python's pinned archive, without llama.cpp's common parts and tools (two
thirds of the compile time). The wheel stays in the user's cache under the recipe's key, so that a
second clone installs it in seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from parhelion.config import default_cache
from parhelion.engines import prove as proof
from parhelion.engines.prove import Findings
from parhelion.engines.toolchain import SDIST_SHA256, VERSION, Recipe, recipe
from parhelion.words import Problem, ProblemCode

DOWNLOAD_TIMEOUT_S = 600.0
"""60 MB over a slow line."""

COMPILE_TIMEOUT_S = 3600.0
"""Two minutes on two idle cores; a small single board may take half an hour."""

INSTALL_TIMEOUT_S = 120.0

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
"""What a shell reports for a process ended by Ctrl-C, and by SIGTERM."""

LOG_TAIL_LINES = 15
"""Enough to show the compiler's first complaint after a failed build."""

PROGRESS_STEP_PERCENT = 5
"""One line in twenty: visible progress in a log file without drowning it."""

COMMON_ON = "set(LLAMA_BUILD_COMMON ON CACHE"
COMMON_OFF = "set(LLAMA_BUILD_COMMON OFF CACHE"
NINJA_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")


def main(arguments: list[str]) -> int:
    """`python -m parhelion.engines.build [--again]`: exit status 0 when the engine is proved."""
    # `make` and service managers end us with SIGTERM: the compilers must end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        ensure(again="--again" in arguments)
    except Problem as problem:
        say(f"error: {problem.message}\n\nhint: {problem.hint}")
        return 1
    except KeyboardInterrupt:
        say("engine: stopped; the next run starts the build again")
        return EXIT_INTERRUPTED
    return 0


@dataclass(frozen=True, slots=True)
class Steps:
    """What `ensure` does to the machine, so that a test can stand in for the machine."""

    recipe: Callable[[bool], Recipe]
    wheel: Callable[[Recipe, bool], Path]
    install: Callable[[Path], None]
    prove: Callable[[bool | None], Problem | None]
    findings: Callable[[], Findings | None]
    record: Callable[[Findings], None]
    installed: Callable[[], bool]


def ensure(steps: Steps | None = None, *, again: bool = False) -> None:
    """Leave a working llama.cpp installed; Problem BUILD_FAILED when that cannot be done."""
    steps = steps or real_steps()
    if steps.installed() and not again and _still_good(steps):
        say("engine: llama.cpp is installed and passes its self-test")
        return
    how = steps.recipe(True)
    problem = _build_and_prove(steps, how, native=True, again=again)
    # Only a library at fault is built again: a model that could not be fetched is no reason.
    if problem is not None and problem.code is ProblemCode.BUILD_FAILED and how.library is None:
        say(f"engine: {problem.message.splitlines()[0]}; building again with GGML_NATIVE=OFF")
        problem = _build_and_prove(steps, steps.recipe(False), native=False, again=again)
    if problem is not None:
        raise problem


def real_steps() -> Steps:
    """The steps as they are on a user's machine."""
    return Steps(
        recipe=lambda native: recipe(native=native),
        wheel=lambda how, again: (None if again else cached_wheel(how)) or build(how),
        install=install,
        prove=lambda extra: proof.prove(use_extra_bufts=extra),
        findings=proof.findings,
        record=proof.record,
        installed=lambda: proof.package_folder() is not None,
    )


def _still_good(steps: Steps) -> bool:
    known = steps.findings()
    # Without findings somebody installed it by hand, say with CUDA: theirs to choose, if it works.
    ours_and_stale = known is not None and known.key != steps.recipe(known.native).key
    return not ours_and_stale and steps.prove(None) is None


def _build_and_prove(steps: Steps, how: Recipe, *, native: bool, again: bool) -> Problem | None:
    steps.install(steps.wheel(how, again))
    # Recorded before the proof too: an interrupted one must not pass for a build by hand.
    steps.record(Findings(key=how.key, native=native))
    say("engine: self-test (one token in a child process)")
    problem = steps.prove(True)
    if problem is None:
        say("engine: proved")
        return None
    # Repacked weights are where AMX kernels live: without them the library may be sound.
    if proof.died_by_signal(problem) and steps.prove(False) is None:
        steps.record(Findings(key=how.key, native=native, use_extra_bufts=False))
        say("engine: proved without extra buffer types (recorded for the engine host)")
        return None
    return problem


def cache_folder(how: Recipe) -> Path:
    """Where the wheel and the build's log live; one folder a recipe, never shared by machines."""
    return default_cache() / "engine" / how.key


def cached_wheel(how: Recipe) -> Path | None:
    """The wheel an earlier build left, if any."""
    return next(iter(sorted(cache_folder(how).glob("llama_cpp_python-*.whl"))), None)


def build(how: Recipe) -> Path:
    """Download, unpack, trim and compile; the wheel in the cache. Problem BUILD_FAILED."""
    folder = cache_folder(how)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(prefix="parhelion-build-") as temporary:
        work = Path(temporary)
        say(f"engine: downloading llama-cpp-python {VERSION} (source, 70 MB)")
        _run(download_command(work), log, "download", DOWNLOAD_TIMEOUT_S)
        source = unpack(work)
        trim(source / "CMakeLists.txt", external=how.library is not None)
        if how.library:
            say(f"engine: using the library in {how.library}")
        else:
            say("engine: building llama.cpp once (2 to 3 minutes on two idle cores)")
        command = _pip("wheel", "-v", "--no-deps", "--no-build-isolation", "-w", str(work), ".")
        _run(command, log, "compile", COMPILE_TIMEOUT_S, cwd=source, env=_environment(how))
        made = next(iter(work.glob("llama_cpp_python-*.whl")), None)
        if made is None:
            raise _failed("the build made no wheel", log)
        # Copied under another name first: the cache never shows half a wheel.
        partial = folder / f"{made.name}.{os.getpid()}"
        shutil.copyfile(made, partial)
        return partial.replace(folder / made.name)


def download_command(work: Path) -> list[str]:
    """pip's command that fetches exactly the pinned archive into `work`."""
    pinned = work / "source.txt"
    pinned.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
    switches = ("--no-deps", "--no-build-isolation", "--require-hashes")
    only_source = ("--no-binary", "llama-cpp-python")
    return _pip("download", *switches, *only_source, "-d", str(work), "-r", str(pinned))


def unpack(work: Path) -> Path:
    """The folder of the unpacked source archive in `work`."""
    archive = next(iter(work.glob("llama_cpp_python-*.tar.gz")))
    with tarfile.open(archive) as tar:
        # The filter came with 3.11.4; the archive's hash is pinned either way.
        if hasattr(tarfile, "data_filter"):
            tar.extractall(work, filter="data")
        else:
            tar.extractall(work)
    return work / archive.name.removesuffix(".tar.gz")


def trim(cmake_lists: Path, *, external: bool) -> None:
    """Turn llama.cpp's common parts off; with an external library, ask for no compiler either."""
    text = cmake_lists.read_text("utf-8")
    if text.count(COMMON_ON) != 1:
        raise Problem(
            ProblemCode.BUILD_FAILED,
            "the source archive is not the one we know how to trim",
            hint=f"expected llama-cpp-python {VERSION}",
        )
    text = text.replace(COMMON_ON, COMMON_OFF)
    if external:
        text = text.replace("project(llama_cpp)", "project(llama_cpp LANGUAGES NONE)")
    cmake_lists.write_text(text, "utf-8")


def install(wheel: Path) -> None:
    """Put the wheel into this environment, over whatever build is there."""
    say(f"engine: installing {wheel.name}")
    log = wheel.parent / "install.log"
    command = _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    _run(command, log, "install", INSTALL_TIMEOUT_S)


def progress(line: str, shown_percent: int) -> int | None:
    """The percentage to show for a line of the build, or None when it says nothing new."""
    step = NINJA_STEP.match(line)
    if step is None or int(step[2]) == 0:
        return None
    percent = 100 * int(step[1]) // int(step[2])
    worth_it = percent >= shown_percent + PROGRESS_STEP_PERCENT or (
        percent == 100 and shown_percent < 100
    )
    return percent if worth_it else None


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _pip(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]


def _environment(how: Recipe) -> dict[str, str]:
    flags = " ".join(how.compile_flags)
    here = Path(sys.executable).parent
    return {
        **os.environ,
        # cmake and ninja come as wheels of this environment, which need not be activated.
        "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}".strip(),
        "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {flags}".strip(),
        "CMAKE_ARGS": " ".join(how.cmake_args),
        "CMAKE_GENERATOR": "Ninja",
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 2),
    }


def _run(
    command: list[str],
    log: Path,
    what: str,
    timeout_s: float,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command with its output in the log and its progress shown; Problem when it fails."""
    started_s = time.monotonic()
    shown = 0
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"\n--- {what}: {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=os.name == "posix",
        )
        watchdog = threading.Timer(timeout_s, _end, [process])
        watchdog.daemon = True
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                sink.write(line)
                percent = progress(line, shown)
                if percent is not None:
                    shown = percent
                    say(f"engine: {percent:3d} %  {time.monotonic() - started_s:4.0f} s")
            status = process.wait()
        except BaseException:
            # A Ctrl-C here must not leave a compiler running behind the person's back.
            _end(process)
            raise
        finally:
            watchdog.cancel()
    if status != 0:
        late = time.monotonic() - started_s >= timeout_s
        raise _failed(f"{what} took over {timeout_s:.0f} s" if late else f"{what} failed", log)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command with all that it started: pip alone would leave ninja compiling."""
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _failed(message: str, log: Path) -> Problem:
    lines = log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
    tail = "\n".join(f"  {line[:200]}" for line in lines)
    return Problem(
        ProblemCode.BUILD_FAILED,
        f"building the engine: {message}\n{tail}",
        hint=f"the whole log is in {log}; needed: a C++ compiler "
        "(Debian: sudo apt-get install build-essential) and access to a package index",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
