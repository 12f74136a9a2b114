"""Whether an order about a stage can be obeyed; pure. A coordinator is outside like any other."""

from __future__ import annotations

import re

from parhelion.link import CloseStage, LoadStage, OpenStage
from parhelion.words import TAG_BLOCK_IDS, Problem, ProblemCode, StageOffer, StageSpec

STAGES_LIMIT = 8
"""Stages that a node holds at once: of a few pipelines, and of the next plan beside this one's."""

NAME_LIMIT_CHARS = 128
"""Ours have 30; they are logged, and sent back with every message."""

HOLDERS_LIMIT = 2
"""Nodes that are asked for a slice before the coordinator is; each may cost a few seconds."""

TOKEN_LIMIT_CHARS = 4096
"""What lets us in where the coordinator serves a slice."""

LAYERS_LIMIT = 1024
"""Several times what any model has."""

SLOTS_LIMIT = 1024
KV_TOKENS_LIMIT = 2**31 - 1
"""What a frame between stages can name (engines.hidden): jobs at once, and positions."""

TAG_BYTES = 8
OPENING_BYTES = 32

_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[!-~]+")
_JOB = re.compile(r"[!-~]{1,64}")
"""As a frame between stages takes it (engines.hidden.JOB_LIMIT_BYTES)."""


def load_refusal(order: LoadStage, offer: StageOffer) -> Problem | None:
    """Why this stage can never be held by a node that offers this."""
    fault = _spec_fault(order.spec) or _file_fault(order)
    if fault is not None:
        return Problem(ProblemCode.INVALID_REQUEST, fault)
    if order.spec.wire not in offer.wires:
        return Problem(
            ProblemCode.UNSUPPORTED_PARAMETER, f"this node does not speak {order.spec.wire}"
        )
    return memory_refusal(order.size_bytes, 0, offer)


def memory_refusal(need_bytes: int, held_bytes: int, offer: StageOffer) -> Problem | None:
    """Why there is no memory for a stage beside those that are held."""
    if need_bytes > offer.memory_bytes:
        return Problem(
            ProblemCode.OVERLOADED,
            f"the stage needs {_memory(need_bytes)}; "
            f"this node offers {_memory(offer.memory_bytes)}",
        )
    if held_bytes + need_bytes > offer.memory_bytes:
        return Problem(
            ProblemCode.OVERLOADED,
            f"the stage needs {_memory(need_bytes)}; of {_memory(offer.memory_bytes)} that this "
            f"node offers {_memory(held_bytes)} are taken by other stages",
        )
    return None


def _memory(size_bytes: int) -> str:
    """As `parhelion plan` says it, so that the two can be compared."""
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"


def _spec_fault(spec: StageSpec) -> str | None:
    if _HEX.fullmatch(spec.digest) is None:
        return "an artefact's digest is 64 lower-case hex digits"
    if not 0 <= spec.start < spec.end <= spec.layers <= LAYERS_LIMIT:
        return f"layers [{spec.start}, {spec.end}) of {spec.layers} are no stage"
    is_whole = spec.is_first and spec.is_last
    if not 1 <= spec.stages <= spec.layers or (spec.stages == 1) is not is_whole:
        return f"{spec.stages} stages for {spec.layers} layers, of which this has {spec.start} on"
    if not 1 <= spec.slots <= SLOTS_LIMIT:
        return f"{spec.slots} slots, of 1 to {SLOTS_LIMIT}"
    if not 1 <= spec.context <= KV_TOKENS_LIMIT or not 1 <= spec.kv_tokens <= KV_TOKENS_LIMIT:
        return f"a context of {spec.context} and {spec.kv_tokens} ids of memory"
    return None


def _file_fault(order: LoadStage) -> str | None:
    if len(order.stage) > NAME_LIMIT_CHARS or _NAME.fullmatch(order.stage) is None:
        return "a stage's name is printable and short"
    if order.size_bytes <= 0 or _HEX.fullmatch(order.sha256) is None:
        return "a slice has a size and a sha256 of 64 lower-case hex digits"
    if len(order.holders) > HOLDERS_LIMIT or len(order.token) > TOKEN_LIMIT_CHARS:
        return f"over {HOLDERS_LIMIT} nodes that have it, or a token too long"
    if any(ticket.role != "dial" for ticket in order.holders):
        return "whoever fetches a slice dials"
    return None


def open_refusal(order: OpenStage, spec: StageSpec) -> Problem | None:
    """Why this job cannot be expected at a stage like this."""
    job = order.job
    if _JOB.fullmatch(job.job) is None or not 0 <= job.attempt < 2**31:
        return _invalid("a job's id is printable and short")
    if not 1 <= job.capacity <= spec.context:
        text = f"{job.capacity} tokens do not fit a context of {spec.context}"
        return Problem(ProblemCode.CONTEXT_LENGTH_EXCEEDED, text)
    if len(job.tags) > job.capacity // TAG_BLOCK_IDS:
        return _invalid(f"{len(job.tags)} tags for {job.capacity} ids")
    if any(len(tag) != TAG_BYTES for tag in job.tags):
        return _invalid(f"a tag has {TAG_BYTES} bytes")
    if not (spec.is_first or spec.is_last):
        return None
    ids = order.ids
    if ids is None:
        return _invalid("the first and the last stage need the job's ids")
    if (ids.job, ids.attempt, ids.digest) != (job.job, job.attempt, spec.digest):
        return _invalid("the ids are of another job, attempt or artefact")
    if len(ids.opening) != OPENING_BYTES:
        return _invalid(f"an opening has {OPENING_BYTES} bytes")
    if len(ids.prompt_ids) + max(ids.max_tokens, len(ids.output_ids)) > job.capacity:
        return _invalid("the ids are more than the capacity")
    return None


def close_fault(order: CloseStage, spec: StageSpec) -> str | None:
    """Why the part that this order names cannot be signed."""
    if not 0 <= order.start <= order.to <= spec.context:
        return f"a part from {order.start} to {order.to}"
    if _HEX.fullmatch(order.head) is None or _HEX.fullmatch(order.opening_hash) is None:
        return "its head or its opening's hash is no sha256"
    return None


def kept_tags(order: CloseStage, spec: StageSpec) -> tuple[bytes, ...]:
    """The tags that may be kept; none where they are none of ours."""
    if len(order.tags) > spec.context // TAG_BLOCK_IDS:
        return ()
    return order.tags if all(len(tag) == TAG_BYTES for tag in order.tags) else ()


def _invalid(message: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message)
