"""What the parent and a stage's host say to each other: tagged msgpack structs, one a frame."""

from __future__ import annotations

from parhelion.engines.host_messages import Failed, Ping, Pong, Told
from parhelion.engines.stage_protocol import StageCard
from parhelion.words import Job, StageJob, Step

# --- parent to host ---------------------------------------------------------------------------


class Open(Told, frozen=True, kw_only=True, tag="open"):
    """Make room for this job and say what is held of it; `ticket` names the answer."""

    ticket: int
    job: StageJob
    ids: Job | None = None


class Go(Told, frozen=True, kw_only=True, tag="go"):
    """First stage: begin, behind the first `reused` ids, which every stage holds."""

    job: str
    attempt: int
    reused: int


class Feed(Told, frozen=True, kw_only=True, tag="feed"):
    """A frame from another stage (see hidden)."""

    frame: bytes


class Close(Told, frozen=True, kw_only=True, tag="close"):
    """The job is over; what is held of it may be kept under `tags`."""

    job: str
    attempt: int
    tags: tuple[bytes, ...] = ()


class Time(Told, frozen=True, kw_only=True, tag="time"):
    """Time a step of `rows` rows that belong to nobody."""

    ticket: int
    rows: int
    repeats: int


# --- host to parent ---------------------------------------------------------------------------


class StageReady(Told, frozen=True, kw_only=True, tag="stage-ready"):
    """The slice is loaded and its first step is done."""

    card: StageCard


class Opened(Told, frozen=True, kw_only=True, tag="opened"):
    """The answer to an Open: ids that are held, or why not (`code` a ProblemCode value)."""

    ticket: int
    held: int = 0
    code: str = ""
    message: str = ""


class Stepped(Told, frozen=True, kw_only=True, tag="stepped"):
    """One step of the stage: what it made for the next stage and for the coordinator."""

    frame: bytes
    steps: tuple[Step, ...]
    rows: int
    took_ms: float


class Reported(Told, frozen=True, kw_only=True, tag="reported"):
    """Steps of no decode: the end of a job that came complete."""

    steps: tuple[Step, ...]


class Heard(Told, frozen=True, kw_only=True, tag="heard"):
    """How many bytes of frames were taken in since the start."""

    bytes: int


class Timed(Told, frozen=True, kw_only=True, tag="timed"):
    """The answer to a Time: the median step, or why there is none."""

    ticket: int
    ms: float = 0.0
    code: str = ""
    message: str = ""


ToStage = Open | Go | Feed | Close | Time | Ping
FromStage = StageReady | Opened | Stepped | Reported | Heard | Timed | Failed | Pong
