"""The proof of a build: one token decoded in a child process, and what was learnt from it.

llama.cpp can die at its first decode (a wrong CPU flag is enough), so it is tried where that
death is an exit status. What the proof found is kept beside the installed package, in
`llama_cpp/parhelion.json`: the engine host reads it with `findings()`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from parhelion.words import Problem, ProblemCode, Record

PROOF_TIMEOUT_S = 120.0
"""Loading the packaged model and one decode take about a second; a busy machine may swap."""

TAIL_LINES = 12
"""The last words of a child that are worth showing to a person."""

PROMPT_TOKENS = 8
"""More than one row, so that the batched kernels (the ones that died with AMX) run too."""


class Findings(Record, frozen=True, kw_only=True):
    """What is known of the installed library: the recipe's key, and the fallbacks it needs.

    `use_extra_bufts` False means: load models without repacked weights, they crash here.
    """

    key: str = ""
    native: bool = True
    use_extra_bufts: bool = True


def findings() -> Findings | None:
    """What the last proof recorded; None when the library was not built by us."""
    folder = package_folder()
    if folder is None:
        return None
    try:
        return msgspec.json.decode((folder / "parhelion.json").read_bytes(), type=Findings)
    except (OSError, msgspec.MsgspecError):
        return None


def record(found: Findings) -> None:
    """Keep the findings beside the installed package, whole or not at all."""
    folder = package_folder()
    if folder is None:
        return
    partial = folder / f"parhelion.json.{os.getpid()}"
    partial.write_bytes(msgspec.json.encode(found))
    partial.replace(folder / "parhelion.json")


def package_folder() -> Path | None:
    """Where llama_cpp is installed, found without importing it."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def prove(model: Path | None = None, *, use_extra_bufts: bool | None = None) -> Problem | None:
    """Decode one token in a child process; None when it worked, else what went wrong.

    Without `model` the packaged one is used; without `use_extra_bufts` what was recorded is.
    """
    if package_folder() is None:
        return Problem(ProblemCode.BUILD_FAILED, "llama_cpp is not installed", hint=BUILD_HINT)
    if use_extra_bufts is None:
        use_extra_bufts = (findings() or Findings()).use_extra_bufts
    if model is None:
        from parhelion.models import packaged_model

        try:
            model = packaged_model()
        except Problem as problem:
            return problem
    return judge(*run_child([str(model), str(int(use_extra_bufts))]))


def run_child(arguments: list[str], timeout_s: float = PROOF_TIMEOUT_S) -> tuple[int | None, str]:
    """The child's exit status and its output; None when it did not end in time."""
    command = [sys.executable, "-m", "parhelion.engines.prove", *arguments]
    # Without this an abort in ggml starts a debugger first, which can take minutes.
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        return None, (expired.stdout or b"").decode("utf-8", "replace")
    return done.returncode, done.stdout.decode("utf-8", "replace")


def judge(returncode: int | None, output: str) -> Problem | None:
    """What an exit status and output say about the build; None when the token was decoded."""
    if returncode == 0:
        return None
    if returncode is None:
        said = f"the self-test did not finish within {PROOF_TIMEOUT_S:.0f} s"
    elif returncode < 0:
        said = f"the self-test died with {_signal_name(-returncode)}"
    else:
        said = "the self-test failed"
    tail = "\n".join(output.strip().splitlines()[-TAIL_LINES:])
    return Problem(ProblemCode.BUILD_FAILED, f"{said}\n{tail}" if tail else said, hint=BUILD_HINT)


def died_by_signal(problem: Problem | None) -> bool:
    """True when the library itself killed the child: then a fallback is worth a try."""
    return problem is not None and "died with SIG" in problem.message


BUILD_HINT = "build it again: python -m parhelion.engines.build --again"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def decode_one(model_path: str, use_extra_bufts: bool) -> int:
    """The greedy token after a short prompt, by llama.cpp's C API; runs in the child only."""
    import llama_cpp.llama_cpp as llama

    llama.llama_backend_init()
    model_params = llama.llama_model_default_params()
    model_params.use_extra_bufts = use_extra_bufts
    model = llama.llama_model_load_from_file(model_path.encode(), model_params)
    if not model:
        raise SystemExit(f"{Path(model_path).name} cannot be loaded")
    context_params = llama.llama_context_default_params()
    context_params.n_ctx = 64
    context_params.n_batch = 64
    context_params.n_threads = context_params.n_threads_batch = max(1, (os.cpu_count() or 2) - 1)
    context = llama.llama_init_from_model(model, context_params)
    if not context:
        raise SystemExit("no context")
    vocabulary = llama.llama_model_get_vocab(model)
    assert vocabulary is not None
    n_vocab = llama.llama_vocab_n_tokens(vocabulary)
    prompt = (llama.llama_token * PROMPT_TOKENS)(*(1 + 7 * i for i in range(PROMPT_TOKENS)))
    token = -1
    # The prompt takes the batched path, the single token after it the other one.
    for tokens, count in ((prompt, PROMPT_TOKENS), ((llama.llama_token * 1)(1), 1)):
        status = llama.llama_decode(context, llama.llama_batch_get_one(tokens, count))
        if status != 0:
            raise SystemExit(f"llama_decode answered {status}")
        logits = ctypes.cast(
            llama.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float)
        )[:n_vocab]
        if not all(map(math.isfinite, logits)) or min(logits) == max(logits):
            raise SystemExit("the logits are not usable numbers")
        token = logits.index(max(logits))
    return token


if __name__ == "__main__":
    decode_one(sys.argv[1], sys.argv[2] == "1")
    # Clean-up of a GPU backend at exit may crash although the decode was right.
    sys.stdout.flush()
    os._exit(0)
