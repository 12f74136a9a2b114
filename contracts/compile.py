"""Compile the contracts into the artefacts that the package ships (`make contracts`).

The compiler is a dependency of development only; who runs Parhelion has the artefacts. `--check`
compiles and compares byte for byte, and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "src/parhelion/chain/contracts"
NAMES = ("usdc", "multicall")
FORMATS = "abi,bytecode,bytecode_runtime,layout"
COMPILE_TIMEOUT_S = 120


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.stderr.write("usage: python contracts/compile.py [--check]" + "\n")
        return 2
    stale: list[str] = []
    for name in NAMES:
        shipped = SHIPPED / f"{name}.json"
        text = artefact(name)
        if check and (not shipped.is_file() or shipped.read_text() != text):
            stale.append(name)
        if not check:
            shipped.write_text(text)
            sys.stderr.write(f"{shipped.relative_to(HERE.parent)}: {len(text)} bytes" + "\n")
    if stale:
        sys.stderr.write(f"contracts: stale artefacts: {', '.join(stale)}" + "\n")
        sys.stderr.write("\nhint: make contracts" + "\n")
    return 1 if stale else 0


def artefact(name: str) -> str:
    """The artefact of one contract as it is shipped: what was compiled, by what, and the result."""
    source = HERE / f"{name}.vy"
    vyper = [sys.executable, "-m", "vyper.cli.vyper_compile"]
    abi, bytecode, runtime, layout = _run([*vyper, "-f", FORMATS, source.name]).splitlines()
    record: dict[str, Any] = {
        "contract": name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "compiler": "vyper " + _run([*vyper, "--version"]).strip(),
        "storage": {
            key: value["slot"]
            for key, value in json.loads(layout).get("storage_layout", {}).items()
        },
        "abi": [*json.loads(abi), *(_bytes_forms(json.loads(abi)) if name == "usdc" else [])],
        "bytecode": bytecode,
        "runtime": runtime,
    }
    return json.dumps(record, indent=1) + "\n"


def _bytes_forms(abi: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that the compiler cannot know: `__default__` takes (v, r, s) as one `bytes`."""
    forms: list[dict[str, Any]] = []
    for entry in abi:
        inputs: list[dict[str, str]] = entry.get("inputs", [])
        if [item["name"] for item in inputs[-3:]] == ["v", "r", "s"]:
            signature = {"name": "signature", "type": "bytes"}
            forms.append({**entry, "inputs": [*inputs[:-3], signature]})
    return forms


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=True
    )
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
