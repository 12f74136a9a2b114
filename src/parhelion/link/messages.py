"""Everything that node and coordinator may say to each other: one closed union of tagged structs.

The three handshake messages travel in the clear (they carry no secret); every later message is
sealed. All are msgpack; a sealed frame holds an array of them. Unknown fields are ignored, an
unknown tag ends the session with its cause.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from parhelion.words import (
    Job,
    LoadPhase,
    NodeCard,
    Record,
    Segment,
    StageJob,
    StageSegment,
    StageSpec,
    Step,
)

SUBPROTOCOL = "parhelion.1"
FRAME_LIMIT_BYTES = 1024 * 1024
"""A prompt of 128k ids is under 650 kB of msgpack; larger frames are refused unread."""


class Spoken(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    """A message of the link; the tag is the class's name in lower case."""


# --- handshake, in the clear ------------------------------------------------------------------


class Hello(Spoken, frozen=True, kw_only=True):
    """What a side shows: its Ed25519 key, a fresh nonce, a fresh X25519 key (32 bytes each)."""

    version: int
    peer: str
    nonce: bytes
    ephemeral: bytes


class Answer(Hello, frozen=True, kw_only=True):
    """The other side answers in kind and signs the transcript under its role."""

    signature: bytes


class Proof(Spoken, frozen=True, kw_only=True):
    """Who opened signs the same transcript under its own role; sealing starts after it."""

    signature: bytes


class NodeHello(Hello, frozen=True, kw_only=True, tag="node_hello"):
    """The node opens."""


class CoordinatorHello(Answer, frozen=True, kw_only=True, tag="coordinator_hello"):
    """The coordinator answers."""


class NodeProof(Proof, frozen=True, kw_only=True, tag="node_proof"):
    """The node's proof."""


class PairHello(Hello, frozen=True, kw_only=True, tag="pair_hello"):
    """Of two nodes, the one whose ticket says "dial" opens."""


class PairAnswer(Answer, frozen=True, kw_only=True, tag="pair_answer"):
    """The accepting node answers."""


class PairProof(Proof, frozen=True, kw_only=True, tag="pair_proof"):
    """The dialling node's proof."""


# --- sealed, node to coordinator --------------------------------------------------------------


class Register(Spoken, frozen=True, kw_only=True, tag="register"):
    """First sealed frame: who this node is, what it offers, and its invite if it has one."""

    card: NodeCard
    invite: str | None = None
    sent_at_ms: int | None = None
    """The node's clock: receipts carry its times, so two clocks far apart are told at the door."""


Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
"""Of something that is counted while it is done; never a guess."""


class Stay(Record, frozen=True, kw_only=True):
    """What a node says of itself that loads, and keeps its knock's session meanwhile."""

    name: str
    version: str = ""
    phase: LoadPhase | None = None
    percent: Percent | None = None


class Knock(Spoken, frozen=True, kw_only=True, tag="knock"):
    """In Register's place: would this node be let in? Asked before a model is loaded for it.

    Answered with a Welcome that accepts nothing, or with the Bye that a registration would get, and
    the session is over; no use of the invite is spent. With a `stay` the session goes on where the
    coordinator has room for it: heartbeats and Loading follow, until the node registers in a
    session of its own, or says with its Bye why it will not.
    """

    invite: str | None = None
    stay: Stay | None = None


class Loading(Spoken, frozen=True, kw_only=True, tag="loading"):
    """How far a node is that stays; without `percent` where nothing counts it."""

    phase: LoadPhase
    percent: Percent | None = None


class EngineState(Record, frozen=True, kw_only=True):
    """The engine of one model, by its digest; `state` is "ready" or what is wrong with it."""

    digest: str
    state: str
    reason: str | None = None


class StageState(Record, frozen=True, kw_only=True):
    """A stage that is loaded: what its process takes, and its usual step as measured there.

    `usual_step_ms` is 0 before its first step; `step_ms` is the longest one's since the last
    heartbeat, or how long the present one has lasted if that is longer. `slow_steps` is how many
    in a row, up to the last, took over 5 times what is usual there for as many rows, and over
    100 ms.
    """

    stage: str
    resident_bytes: int
    steps: int
    busy_ms: float
    usual_step_ms: float
    step_ms: float
    slow_steps: int = 0


class Heartbeat(Spoken, frozen=True, kw_only=True, tag="heartbeat"):
    """Every 2 s: alive, with what the node reports of itself.

    `engines` are those that do not run, each model has its own; where none is named, `engine`
    speaks for all of them: "ready", or what is wrong. `stages` are those it holds.
    """

    sent_at_ms: int
    slots_busy: int
    engine: str
    reason: str | None = None
    engines: tuple[EngineState, ...] = ()
    stages: tuple[StageState, ...] = ()


class Steps(Spoken, frozen=True, kw_only=True, tag="steps"):
    """What the engine made since the last frame, for all jobs of this node together."""

    steps: tuple[Step, ...]


class Signed(Spoken, frozen=True, kw_only=True, tag="signed"):
    """The node's signed segment of a job, after its end or a Cut."""

    segment: Segment


class JobFailed(Spoken, frozen=True, kw_only=True, tag="job_failed"):
    """The node cannot go on with a job; `code` is a ProblemCode value. Ids sent before count."""

    job: str
    attempt: int
    code: str
    message: str


class Draining(Spoken, frozen=True, kw_only=True, tag="draining"):
    """The node takes no new job and leaves when its last one is done."""

    reason: str


class StageLoaded(Spoken, frozen=True, kw_only=True, tag="stage_loaded"):
    """A stage is ready, `took_ms` after LoadStage; `fetched_bytes` came over the network.

    `only_fetched`: its slice lies here, as was asked for, and no process holds it. `device` is what
    the stage's process found to compute on: a node without a model of its own knows it from there.
    """

    stage: str
    resident_bytes: int
    took_ms: int
    fetched_bytes: int = 0
    only_fetched: bool = False
    device: str = ""


class StageFailed(Spoken, frozen=True, kw_only=True, tag="stage_failed"):
    """A stage cannot be loaded, or its engine is lost; `code` is a ProblemCode value."""

    stage: str
    code: str
    message: str


class StageOpened(Spoken, frozen=True, kw_only=True, tag="stage_opened"):
    """A job may come; the stage holds its first `held` ids (whole blocks) already."""

    stage: str
    job: str
    attempt: int
    held: int


class StageSigned(Spoken, frozen=True, kw_only=True, tag="stage_signed"):
    """The node's signed part in a job of a pipeline, after CloseStage.

    Of a pipeline of one there is none: its Segment says it all.
    """

    segment: StageSegment


class StageTimed(Spoken, frozen=True, kw_only=True, tag="stage_timed"):
    """The steps of a TimeStage are done: the coordinator times them by its own clock."""

    stage: str
    ticket: int


class PairUp(Spoken, frozen=True, kw_only=True, tag="pair_up"):
    """A link to another node carries, as measured at this end; said again when it changes."""

    link: str
    path: str
    rtt_ms: float
    mbit_s: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0


class PairDown(Spoken, frozen=True, kw_only=True, tag="pair_down"):
    """A link to another node could not be made, or is lost."""

    link: str
    cause: str


# --- sealed, coordinator to node --------------------------------------------------------------


class NotTaken(Record, frozen=True, kw_only=True):
    """An offered model that the pool does not take from this node, and why."""

    digest: str
    reason: str


class Welcome(Spoken, frozen=True, kw_only=True, tag="welcome"):
    """Registration accepted; `accepted` are the digests of the offered models the pool knows."""

    coordinator: str
    heartbeat_s: float
    accepted: tuple[str, ...]
    refused: tuple[NotTaken, ...] = ()


class Alive(Spoken, frozen=True, kw_only=True, tag="alive"):
    """Answers each Heartbeat (the coordinator's carrier does it), so that silence has two ends."""


class Open(Spoken, frozen=True, kw_only=True, tag="open"):
    """Run this job."""

    job: Job


class Cut(Spoken, frozen=True, kw_only=True, tag="cut"):
    """Stop the job now and sign its chain at output index `n` (ids from n on do not count)."""

    job: str
    attempt: int
    n: int


class PairTicket(Record, frozen=True, kw_only=True):
    """Leave for one link between two nodes: both sides get the same `link` and `secret`.

    `peer` is the other side. Who dials tries each of `direct` ("host:port" of the accepting side),
    and both meet at the coordinator's `relay` path.
    """

    link: str
    secret: bytes
    peer: str
    role: Literal["dial", "accept"]
    direct: tuple[str, ...] = ()
    relay: str = "/v1/link"


class LoadStage(Spoken, frozen=True, kw_only=True, tag="load_stage"):
    """Hold these layers under the name `stage`; one that is held already is confirmed at once.

    The slice has `size_bytes` and `sha256`. It is cut from a local file of the whole model where
    there is one, else fetched from another node that has it, by one of the tickets in `holders`, or
    from the coordinator with `token`. With `only_fetch` it is to lie on the disk, and nothing is
    started: the answer has no resident bytes.
    """

    stage: str
    spec: StageSpec
    size_bytes: int
    sha256: str
    holders: tuple[PairTicket, ...] = ()
    token: str = ""
    only_fetch: bool = False


class ServeSlice(Spoken, frozen=True, kw_only=True, tag="serve_slice"):
    """Let the other node of this link read one slice over it; the rest is as in its LoadStage.

    No answer is due: who cannot serve it lets the link go, and the other node asks elsewhere.
    """

    ticket: PairTicket
    digest: str
    start: int
    end: int
    size_bytes: int
    sha256: str


class UnloadStage(Spoken, frozen=True, kw_only=True, tag="unload_stage"):
    """Let go of a stage, with its jobs and its links."""

    stage: str


class Pair(Spoken, frozen=True, kw_only=True, tag="pair"):
    """Open a link for this stage: to the `next` stage of the ring, or from the `previous` one.

    A newer one for the same stage and side takes the older one's place once it carries.
    """

    stage: str
    side: Literal["next", "previous"]
    ticket: PairTicket


class OpenStage(Spoken, frozen=True, kw_only=True, tag="open_stage"):
    """Expect this job at a stage; the first and the last stage are told its ids too."""

    stage: str
    job: StageJob
    ids: Job | None = None


class Go(Spoken, frozen=True, kw_only=True, tag="go"):
    """To the first stage: every stage expects the job, and holds its first `reused` ids."""

    stage: str
    job: str
    attempt: int
    reused: int


class CloseStage(Spoken, frozen=True, kw_only=True, tag="close_stage"):
    """The job is over at this stage; sign the part in it, which ends at output index `to`.

    `head` is the id chain there, as the coordinator has it; `tags` name what may be kept.
    """

    stage: str
    job: str
    attempt: int
    start: int
    to: int
    head: str
    opening_hash: str
    tags: tuple[bytes, ...] = ()


class TimeStage(Spoken, frozen=True, kw_only=True, tag="time_stage"):
    """Run `repeats` steps of `rows` rows of no job, and say when they are done."""

    stage: str
    ticket: int
    rows: int
    repeats: int


class Drain(Spoken, frozen=True, kw_only=True, tag="drain"):
    """Finish what runs, take nothing new, then leave; hand back what is left at the deadline.

    Without one the node's own deadline holds.
    """

    reason: str
    deadline_s: float | None = None


class Standing(Spoken, frozen=True, kw_only=True, tag="standing"):
    """Whether this node gets paid work, and why not where it does not; for its operator to read.

    `state`: "measuring" while it is not known yet, "ready" or "refused".
    """

    paid_work: bool
    reason: str | None = None
    state: str | None = None


# --- sealed, both ways ------------------------------------------------------------------------


class Bye(Spoken, frozen=True, kw_only=True, tag="bye"):
    """The last frame: why the session ends (`code` is a ProblemCode value)."""

    code: str
    message: str
    hint: str = ""


Handshake = NodeHello | CoordinatorHello | NodeProof
PairHandshake = PairHello | PairAnswer | PairProof
FromStages = StageLoaded | StageFailed | StageOpened | StageSigned | StageTimed | PairUp | PairDown
ToStages = LoadStage | ServeSlice | UnloadStage | Pair | OpenStage | Go | CloseStage | TimeStage
Joining = Register | Knock | Loading
FromNode = Joining | Heartbeat | Steps | Signed | JobFailed | Draining | FromStages | Bye
FromCoordinator = Welcome | Alive | Open | Cut | Drain | Standing | ToStages | Bye
