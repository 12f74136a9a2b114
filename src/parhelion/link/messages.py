"""Everything that node and coordinator may say to each other: one closed union of tagged structs.

The three handshake messages travel in the clear (they carry no secret); every later message is
sealed. All are msgpack; a sealed frame holds an array of them. Unknown fields are ignored, an
unknown tag ends the session with its cause.
"""

from __future__ import annotations

import msgspec

from parhelion.words import Job, NodeCard, Record, Segment, Step

SUBPROTOCOL = "parhelion.1"
FRAME_LIMIT_BYTES = 1024 * 1024
"""A prompt of 128k ids is under 650 kB of msgpack; larger frames are refused unread."""


class Spoken(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    """A message of the link; the tag is the class's name in lower case."""


# --- handshake, in the clear ------------------------------------------------------------------


class NodeHello(Spoken, frozen=True, kw_only=True, tag="node_hello"):
    """The node opens: its Ed25519 key, a fresh nonce, a fresh X25519 key (32 bytes each)."""

    version: int
    peer: str
    nonce: bytes
    ephemeral: bytes


class CoordinatorHello(Spoken, frozen=True, kw_only=True, tag="coordinator_hello"):
    """The coordinator answers in kind and signs the transcript as coordinator."""

    version: int
    peer: str
    nonce: bytes
    ephemeral: bytes
    signature: bytes


class NodeProof(Spoken, frozen=True, kw_only=True, tag="node_proof"):
    """The node signs the same transcript as node; sealing starts after it."""

    signature: bytes


# --- sealed, node to coordinator --------------------------------------------------------------


class Register(Spoken, frozen=True, kw_only=True, tag="register"):
    """First sealed frame: who this node is, what it offers, and its invite if it has one."""

    card: NodeCard
    invite: str | None = None
    sent_at_ms: int | None = None
    """The node's clock: receipts carry its times, so two clocks far apart are told at the door."""


class Knock(Spoken, frozen=True, kw_only=True, tag="knock"):
    """In Register's place: would this node be let in? Asked before a model is loaded for it.

    Answered with a Welcome that accepts nothing, or with the Bye that a registration would get, and
    the session is over; no use of the invite is spent.
    """

    invite: str | None = None


class EngineState(Record, frozen=True, kw_only=True):
    """The engine of one model, by its digest; `state` is "ready" or what is wrong with it."""

    digest: str
    state: str
    reason: str | None = None


class Heartbeat(Spoken, frozen=True, kw_only=True, tag="heartbeat"):
    """Every 2 s: alive, with what the node reports of itself.

    `engines` are those that do not run, each model has its own; where none is named, `engine`
    speaks for all of them: "ready", or what is wrong.
    """

    sent_at_ms: int
    slots_busy: int
    engine: str
    reason: str | None = None
    engines: tuple[EngineState, ...] = ()


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
FromNode = Register | Knock | Heartbeat | Steps | Signed | JobFailed | Draining | Bye
FromCoordinator = Welcome | Alive | Open | Cut | Drain | Standing | Bye
