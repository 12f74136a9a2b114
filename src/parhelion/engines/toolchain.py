"""What decides how llama.cpp is compiled on this machine: compiler, flags, CPU, and their key."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from parhelion.words import Problem, ProblemCode

VERSION = "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""The one source archive of llama-cpp-python that we build, and no other."""

CMAKE_ARGS = (
    "-DGGML_RPC=ON",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    "-DGGML_ALL_WARNINGS=OFF",
)

NO_AMX_FLAGS = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
"""GCC 12 at -O3 drops the stores to the AMX tile configuration: the first decode then dies with
SIGSEGV, and only on CPUs that have AMX. Nothing else on x86-64 is lost without it."""

ASK_TIMEOUT_S = 20.0
"""A compiler says its version in milliseconds; a cold disk may take seconds."""

LIBRARY_VARIABLE = "LLAMA_CPP_LIB_PATH"
"""llama-cpp-python loads the library from this folder instead of its own when it is set."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that changes the built library; two machines with equal recipes are alike."""

    version: str
    sdist_sha256: str
    compiler: str
    system: str
    cpu: str
    cmake_args: tuple[str, ...]
    compile_flags: tuple[str, ...]
    library: str | None

    @property
    def key(self) -> str:
        """A name for the cached wheel: 16 hex digits over every field."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe(*, native: bool, environ: Mapping[str, str] = os.environ) -> Recipe:
    """How llama.cpp is built here; Problem BUILD_FAILED when there is no compiler.

    `native` lets the compiler use all that this CPU has; off is the careful second try. A folder
    in LLAMA_CPP_LIB_PATH (Homebrew, a CUDA build, ...) is used instead of building.
    """
    library = environ.get(LIBRARY_VARIABLE) or None
    compiler = "none" if library else find_compiler(environ, shutil.which, _first_line)
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    flags = NO_AMX_FLAGS if x86 and not library and _knows(environ, NO_AMX_FLAGS) else ()
    if library:
        cmake_args: tuple[str, ...] = ("-DLLAMA_BUILD=OFF", "-DLLAVA_BUILD=OFF")
    else:
        cmake_args = CMAKE_ARGS if native else (*CMAKE_ARGS, "-DGGML_NATIVE=OFF")
    return Recipe(
        version=VERSION,
        sdist_sha256=SDIST_SHA256,
        compiler=compiler,
        system=f"{sys.platform}-{platform.machine()}",
        cpu=_cpu_digest(),
        cmake_args=cmake_args,
        compile_flags=flags,
        library=library,
    )


def compilers(environ: Mapping[str, str]) -> tuple[str, str]:
    """The C and the C++ compiler by name, as CMake would choose them."""
    return environ.get("CC") or "gcc|cc|clang", environ.get("CXX") or "g++|c++|clang++"


def find_compiler(
    environ: Mapping[str, str],
    which: Callable[[str], str | None],
    version_of: Callable[[str], str],
) -> str:
    """The version line of the C++ compiler; Problem BUILD_FAILED names what to install."""
    found: list[str] = []
    for names in compilers(environ):
        path = next((p for name in names.split("|") if (p := which(name.split()[0]))), None)
        if path is None:
            raise Problem(
                ProblemCode.BUILD_FAILED,
                f"no C and C++ compiler found ({names.replace('|', ', ')})",
                hint=INSTALL_HINT,
            )
        found.append(path)
    return version_of(found[1])


INSTALL_HINT = (
    "on Debian or Ubuntu: sudo apt-get install build-essential; on macOS: xcode-select --install"
)


def _first_line(compiler: str) -> str:
    done = _ask([compiler, "--version"])
    return (done.stdout.splitlines() or [compiler])[0] if done else compiler


def _knows(environ: Mapping[str, str], flags: tuple[str, ...]) -> bool:
    names = compilers(environ)[0].split("|")
    compiler = next((p for name in names if (p := shutil.which(name.split()[0]))), "cc")
    done = _ask([compiler, *flags, "-x", "c", "-E", os.devnull])
    return done is not None and done.returncode == 0


def _cpu_digest() -> str:
    """A digest of what the CPU can do: a wheel made for one CPU may die on another."""
    text = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
        kept = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
        text = "\n".join(sorted(kept))
    elif sys.platform == "darwin":
        done = _ask(["sysctl", "-n", "machdep.cpu.brand_string"])
        text = done.stdout if done else text
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ask(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
