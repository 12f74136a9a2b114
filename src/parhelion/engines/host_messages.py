"""What the parent and the engine host say to each other: tagged msgpack structs, one a frame."""

from __future__ import annotations

import msgspec

from parhelion.engines.protocol import EngineCard, Mismatch
from parhelion.words import Job, LoadPhase, SamplerParams, Step


class Told(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    """A message between parent and host."""


# --- parent to host ---------------------------------------------------------------------------


class Run(Told, frozen=True, kw_only=True, tag="run"):
    """Generate for this job."""

    job: Job


class Cancel(Told, frozen=True, kw_only=True, tag="cancel"):
    """Stop this job at the next step."""

    job: str
    attempt: int


class Score(Told, frozen=True, kw_only=True, tag="score"):
    """Re-derive the choices of an output; `ticket` names the answer."""

    ticket: int
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    params: SamplerParams
    seed: int


class Ping(Told, frozen=True, kw_only=True, tag="ping"):
    """Say that you live; asked of a host without work, answered between two steps."""


# --- host to parent ---------------------------------------------------------------------------


class Coming(Told, frozen=True, kw_only=True, tag="coming"):
    """How far the start is, as llama.cpp counts what it has loaded."""

    phase: LoadPhase
    percent: int | None = None


class Ready(Told, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and its first step is done."""

    card: EngineCard


class Made(Told, frozen=True, kw_only=True, tag="made"):
    """One engine step, for all jobs together; empty when only scoring went on (a sign of life)."""

    steps: tuple[Step, ...] = ()


class Failed(Told, frozen=True, kw_only=True, tag="failed"):
    """A job that cannot run or go on; `code` is a ProblemCode value."""

    job: str
    attempt: int
    code: str
    message: str


class Scored(Told, frozen=True, kw_only=True, tag="scored"):
    """The answer to a Score: mismatches, or why there is none (`code` a ProblemCode value)."""

    ticket: int
    mismatches: tuple[Mismatch, ...] = ()
    code: str = ""
    message: str = ""


class Pong(Told, frozen=True, kw_only=True, tag="pong"):
    """The answer to a Ping: the loop runs, and its device has done all that it was given."""


ToHost = Run | Cancel | Score | Ping
FromHost = Coming | Ready | Made | Failed | Scored | Pong
