"""Honest engines of really different builds, and what liars serve, for the bench of probes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import llama_cpp
import msgspec

from bench.variant_host import NO_FLASH, ROWS
from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.engines.build import download_command, unpack
from parhelion.engines.toolchain import NO_AMX_FLAGS
from parhelion.words import Job

BUILDS = "PARHELION_BENCH_BUILDS"
"""A folder that keeps the built libraries between runs; without it they are built each time."""

CMAKE = (
    "-GNinja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=OFF",
    "-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip
OTHER_CPUS: Mapping[str, tuple[str, ...]] = {
    "avx2": (),
    "sse": tuple(f"-DGGML_{name}=OFF" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2")),
}
"""Instruction sets of older x86-64 machines: llama.cpp takes other kernels for each."""

PROBES, PROBES_SLOW = 200, 60
"""Without vector instructions a probe takes six times as long."""

DIGEST = "bench"
SLOTS = 8


class VariantHost(EngineHost):
    """An engine host that `variant_host` changes on its way up."""

    module: ClassVar[str] = "bench.variant_host"


@dataclass(frozen=True, slots=True)
class Build:
    """An engine: its library's folder (None: the installed one), threads, and what is changed.

    `probes` are what it is asked at most: a slow one fewer.
    """

    name: str
    library: Path | None = None
    threads: int = 1
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    probes: int = PROBES

    async def start(self, model: Path) -> EngineHost:
        """The engine, running."""
        changed = dict(self.env)
        if self.library is not None:
            # The loader's path too: the libraries name each other without a folder.
            changed |= {v: str(self.library) for v in ("LLAMA_CPP_LIB_PATH", "LD_LIBRARY_PATH")}
        config = EngineConfig(slots=SLOTS, threads=self.threads, kv_tokens=16384)
        host = VariantHost if self.env else EngineHost
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            return await host.start(model, DIGEST, config, lambda event: None)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def builds(folder: Path) -> tuple[Build, ...]:
    """Honest engines that are not the coordinator's: each differs from it in one thing."""
    kept = Path(os.environ[BUILDS]) if BUILDS in os.environ else folder
    libraries = other_libraries(kept)
    return (
        Build("built for avx2 only", libraries["avx2"]),
        Build("built for sse only", libraries["sse"], probes=PROBES_SLOW),
        Build("no flash attention", env={NO_FLASH: "1"}),
        Build("512 ids a step", env={ROWS: "512"}),
        Build("2 threads", threads=2),
    )


def other_libraries(folder: Path) -> dict[str, Path]:
    """llama.cpp for other instruction sets, by name (some minutes of one core, the first time)."""
    targets = {name: folder / name for name in OTHER_CPUS}
    if all((path / "libllama.so").exists() for path in targets.values()):
        return targets
    work = folder / "build"
    work.mkdir(parents=True, exist_ok=True)
    _run(download_command(work), folder)
    source = unpack(work) / "vendor" / "llama.cpp"
    for name, flags in OTHER_CPUS.items():
        made = work / name
        _run(["cmake", "-S", str(source), "-B", str(made), *CMAKE, *flags], folder)
        _run(["nice", "ninja", "-C", str(made), "llama"], folder)
        targets[name].mkdir(exist_ok=True)
        for library in (made / "bin").glob("*.so*"):
            shutil.copy2(library, targets[name])
    return targets


def _run(command: Sequence[str], folder: Path) -> None:
    flags = " ".join(NO_AMX_FLAGS)
    here = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
        "CFLAGS": flags,
        "CXXFLAGS": flags,
    }
    with (folder / "build.log").open("ab") as log:
        subprocess.run(command, stdout=log, stderr=log, env=env, check=True)


QUANTISE = """
import sys, llama_cpp.llama_cpp as lib
params = lib.llama_model_quantize_default_params()
params.ftype, params.allow_requantize = int(sys.argv[3]), True
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


def quantised(model: Path, kind: str, folder: Path) -> Path:
    """The model with its weights written anew as `kind` (Q2_K, Q8_0, ...), by llama.cpp itself."""
    target = folder / f"{kind}.gguf"
    if not target.exists():
        number = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        command = [sys.executable, "-c", QUANTISE, str(model), str(target), str(number)]
        with (folder / "quantise.log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
    return target


async def ids_of(engine: EngineHost, job: Job) -> tuple[int, ...]:
    """The ids that follow the job's `output_ids`."""
    found: list[int] = []
    async for step in engine.generate(job):
        found += step.ids
    return tuple(found)


def renamed(job: Job, number: int) -> Job:
    """The same job under a name of its own: an engine runs no two of one name."""
    return msgspec.structs.replace(job, job=f"{job.job}-{number}")
