"""Check a receipt offline: what holds, what does not, and what could not be checked; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from parhelion.ledger import class_of, price, tier_cost, tier_rate
from parhelion.proof.receipt import (
    ID_LIMIT,
    IdChain,
    Keyed,
    ask_hmac,
    opening_hash,
    prompt_hmac,
    receipt_holds,
    segment_holds,
    stage_holds,
    text_hmac,
)
from parhelion.proof.strict import Malformed, expect, read_closed
from parhelion.words import (
    AssetClass,
    ClosedRecord,
    Evidence,
    ProblemCode,
    Receipt,
    Segment,
    Sold,
    StageSegment,
    Tier,
    kin,
)

RECEIPT_LIMIT_BYTES = 256 * 1024
"""A receipt with many segments and a full logit_bias is under 64 kB."""

EVIDENCE_LIMIT_BYTES = 16 * 1024 * 1024
"""A million ids and their text."""

STAGES_LIMIT = 256
"""No model has as many layers as would make longer pipelines."""

SEGMENTS_LIMIT = 64
"""A request migrates at most 3 times; the rest is room for pipelines."""

AMOUNT_LIMIT = 2**53
"""RFC 8785's largest safe number; amounts and counts on a receipt stay below."""

FINISHED = frozenset({"stop", "length"})

FINISH_REASONS = FINISHED | frozenset(map(str, ProblemCode))
"""A whole answer ends for one of the first two; one that was cut names the problem."""

_HEX = re.compile(r"[0-9a-f]{64}")
_RECEIPT_ID = re.compile(r"rcpt_[0-9a-v]{26}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_PAYMENT = re.compile(r"(solana|eip155):[0-9A-Za-z]{1,32}/[0-9A-Za-z]{32,90}")
"""A CAIP-2 network and the id of a transaction there."""
_SEED = re.compile(r"0|-?[1-9][0-9]{0,19}")

CheckName = Literal["format", "signature", "segments", "identity", "counts", "price", "ids", "text"]


class Check(ClosedRecord, frozen=True, kw_only=True):
    """One thing that was looked at; `detail` says what was found, in words."""

    name: CheckName
    state: Literal["ok", "failed", "unchecked"]
    detail: str


def verify(
    receipt: bytes, evidence: bytes | None = None, coordinator: str | None = None
) -> tuple[Check, ...]:
    """Every check of a receipt in its JSON form, in a fixed order; never raises.

    Without `evidence` ids and text stay unchecked; without `coordinator` it is only said who
    signed. The receipt is good when no check failed.
    """
    try:
        body = read_closed(receipt, Receipt, RECEIPT_LIMIT_BYTES)
        _well_formed(body)
    except Malformed as error:
        return (_failed("format", str(error)), *_not_reached())
    signature = _signature(body)
    return (
        _ok("format", f"{body.id}, version {body.v}"),
        signature,
        _segments(body),
        _identity(body, coordinator, signature),
        _counts(body),
        _price(body),
        *_opened(body, evidence),
    )


# --- format -----------------------------------------------------------------------------------


def _well_formed(body: Receipt) -> None:
    expect(body.v == 1, "v", "this program knows version 1 only")
    expect(_RECEIPT_ID.fullmatch(body.id), "id", "not a receipt id")
    expect(body.asset_class in set(AssetClass), "asset_class", "not local, test or main")
    expect(body.route in {"pool", "fallback"}, "route", "not pool or fallback")
    expect(body.finish_reason in FINISH_REASONS, "finish_reason", "no reason that is known")
    for name in ("artefact", "vocabulary", "template", "opening_hash"):
        _expect_hex(name, getattr(body, name))
    for name in ("prompt_hmac", "head", "text_hmac"):
        _expect_hex(name, getattr(body, name))
    expect(_SEED.fullmatch(body.seed), "seed", "not a decimal integer")
    expect(_DECIMAL.fullmatch(body.cost_micro), "cost_micro", "not a decimal integer")
    expect(body.payment is None or _PAYMENT.fullmatch(body.payment), "payment", "no transaction")
    expect(body.sold is None or body.sold.tier.isprintable(), "sold.tier", "no name")
    expect(len(body.segments) <= SEGMENTS_LIMIT, "segments", f"more than {SEGMENTS_LIMIT}")
    for segment in body.segments:
        for name in ("opening_hash", "artefact", "head", "ask"):
            _expect_hex(f"segments.{name}", getattr(segment, name))
        expect(
            segment.signature is None or segment.reason is None,
            "segments.reason",
            "a signed segment has none",
        )
        if segment.stages is not msgspec.UNSET:
            _well_formed_stages(segment.stages)
    bias = [id for id, _ in body.params.logit_bias]
    expect(bias == sorted(set(bias)), "params.logit_bias", "not sorted by id")


def _well_formed_stages(stages: Sequence[StageSegment]) -> None:
    expect(1 < len(stages) <= STAGES_LIMIT, "segments.stages", f"not 2 to {STAGES_LIMIT}")
    for stage in stages:
        for name in ("opening_hash", "artefact", "head"):
            _expect_hex(f"segments.stages.{name}", getattr(stage, name))
        expect(
            stage.signature is None or stage.reason is None,
            "segments.stages.reason",
            "a signed part has none",
        )


def _expect_hex(name: str, value: str) -> None:
    expect(_HEX.fullmatch(value), name, "not 64 lower-case hex digits")


# --- without evidence -------------------------------------------------------------------------


def _signature(body: Receipt) -> Check:
    if receipt_holds(body):
        return _ok("signature", f"signed by {body.coordinator}")
    return _failed("signature", f"not signed by {body.coordinator}, or changed after signing")


def _segments(body: Receipt) -> Check:
    at = 0
    for number, segment in enumerate(body.segments, start=1):
        name = f"segment {number} of node {segment.node}"
        if segment.start != at or segment.to < segment.start:
            return _failed("segments", f"{name} starts at {segment.start}, not at {at}")
        about = (segment.job, segment.opening_hash, segment.artefact)
        if about != (kin("job", body.id), body.opening_hash, body.artefact):
            return _failed("segments", f"{name} is about another request or model")
        if segment.ended_at_ms < segment.started_at_ms:
            return _failed("segments", f"{name} ends before it starts")
        if segment.signature is not None and not segment_holds(segment):
            return _failed("segments", f"{name} is not signed by its node, or was changed")
        fault = None if segment.stages is msgspec.UNSET else _fault_of(segment, segment.stages)
        if fault is not None:
            return _failed("segments", f"{name}: {fault}")
        at = segment.to
    if at != body.output_ids:
        return _failed("segments", f"segments cover {at} of {body.output_ids} output ids")
    if body.segments and body.segments[-1].head != body.head:
        return _failed("segments", "the last segment's head is not the receipt's")
    if len({segment.ask for segment in body.segments}) > 1:
        return _failed("segments", "nodes were asked different things")
    attempts = [segment.attempt for segment in body.segments]
    if attempts != sorted(set(attempts)):
        return _failed("segments", "attempts do not follow one another")
    parts = list(_parts(body))
    unsigned = [
        f"node {part.node}: {part.reason or 'no reason given'}"
        for part in parts
        if part.signature is None
    ]
    if unsigned:
        return _unchecked("segments", "no signature of " + "; ".join(dict.fromkeys(unsigned)))
    nodes = ", ".join(dict.fromkeys(part.node for part in parts))
    return _ok("segments", f"signed by {nodes}" if nodes else "no output, so no segment")


def _parts(body: Receipt) -> Iterator[Segment | StageSegment]:
    for segment in body.segments:
        yield segment
        if segment.stages is not msgspec.UNSET:
            yield from segment.stages


def _fault_of(segment: Segment, stages: Sequence[StageSegment]) -> str | None:
    """What is wrong with the stages of a segment: they hold every layer once, and agree with it."""
    layer = 0
    about = (segment.job, segment.attempt, segment.opening_hash, segment.artefact)
    stretch = (segment.start, segment.to, segment.head)
    for number, stage in enumerate(stages, start=1):
        name = f"stage {number} of node {stage.node}"
        if stage.layers[0] != layer or stage.layers[1] <= layer:
            return f"{name} starts at layer {stage.layers[0]}, not at {layer}"
        if (stage.job, stage.attempt, stage.opening_hash, stage.artefact) != about:
            return f"{name} is about another request or model"
        if (stage.start, stage.to, stage.head) != stretch:
            return f"{name} is about another stretch of the output"
        if stage.signature is not None and not stage_holds(stage):
            return f"{name} is not signed by its node, or was changed"
        layer = stage.layers[1]
    if stages[-1].node != segment.node:
        return "its node is not that of its last stage"
    return None


def _identity(body: Receipt, coordinator: str | None, signature: Check) -> Check:
    if coordinator is not None and coordinator != body.coordinator:
        return _failed("identity", f"it names {body.coordinator}, not {coordinator[:64]}")
    if signature.state != "ok":
        # Anybody can write a name: without its signature nothing says who this is of.
        return _unchecked("identity", f"it names {body.coordinator}, whose signature does not hold")
    if coordinator is None:
        return _unchecked("identity", f"{body.coordinator} signed; whose key that is was not asked")
    return _ok("identity", f"signed by {coordinator}, as expected")


def _counts(body: Receipt) -> Check:
    counts = (
        body.prompt_tokens,
        body.completion_tokens,
        body.cached_tokens,
        body.silent_ids,
        body.output_ids,
        body.max_tokens,
        body.migrations,
        body.issued_at_ms,
    )
    if any(not 0 <= count < AMOUNT_LIMIT for count in counts):
        return _failed("counts", "a count is negative or too large")
    if body.completion_tokens + body.silent_ids != body.output_ids:
        return _failed(
            "counts",
            f"{body.completion_tokens} completion tokens and {body.silent_ids} silent ids"
            f" are not {body.output_ids} output ids",
        )
    if body.output_ids > body.max_tokens:
        return _failed("counts", f"{body.output_ids} output ids, at most {body.max_tokens} asked")
    if body.cached_tokens > body.prompt_tokens:
        return _failed("counts", "more cached tokens than prompt tokens")
    if not _migrated(body):
        return _failed("counts", f"{body.migrations} migrations, {len(body.segments)} segments")
    if (body.already_billed or 0) not in range(body.completion_tokens + 1):
        return _failed("counts", "more tokens already billed than delivered")
    return _ok("counts", f"{body.prompt_tokens} prompt + {body.completion_tokens} completion")


def _migrated(body: Receipt) -> bool:
    """Whether its segments are of as many migrations as it says.

    Each is a further attempt, and one that delivered nothing has no segment. The attempt that
    finished the answer was the last one.
    """
    if not body.segments:
        return body.migrations == 0
    most = AMOUNT_LIMIT
    if body.finish_reason in FINISHED:
        most = max(body.segments[-1].attempt, len(body.segments)) - 1
    return len(body.segments) - 1 <= body.migrations <= most


def _price(body: Receipt) -> Check:
    rate = body.rate
    if not _is_of_class(rate.asset, body.asset_class):
        return _failed("price", f"{rate.asset} is not money of class {body.asset_class}")
    if rate.model != body.model:
        return _failed("price", f"the rate is that of {rate.model}, not of {body.model}")
    if rate.prompt_micro < 0 or rate.completion_micro < 0:
        return _failed("price", "a rate is negative")
    if body.sold is not None:
        return _sold(body, body.sold)
    # What an earlier, cut run of the same Idempotency-Key billed is not billed again.
    first_run = body.already_billed is None
    prompt = body.prompt_tokens if first_run else 0
    completion = body.completion_tokens - (body.already_billed or 0)
    cost = price(rate, max(0, prompt), max(0, completion))
    if str(cost) != body.cost_micro:
        return _failed("price", f"cost is {body.cost_micro}, the rate makes it {cost}")
    return _ok("price", f"{cost} base units of {rate.asset} at rate version {rate.version}")


def _sold(body: Receipt, sold: Sold) -> Check:
    """An answer of a tier: its price where it is whole, its share where it was cut."""
    price_micro = int(sold.price_micro) if _DECIMAL.fullmatch(sold.price_micro) else 0
    if not 0 < price_micro <= AMOUNT_LIMIT or sold.max_tokens < 1:
        return _failed("price", "the tier that was sold has no price or no length")
    if body.max_tokens > sold.max_tokens:
        return _failed("price", f"asked for more tokens than the tier {sold.tier} sells")
    tier = Tier(
        name=sold.tier,
        price_micro=price_micro,
        max_tokens=sold.max_tokens,
        max_prompt_tokens=body.prompt_tokens,
    )
    if body.rate != tier_rate(tier, body.model, body.rate.asset):
        return _failed("price", f"the rate is not that of the tier {sold.tier}")
    cost = tier_cost(
        tier,
        body.completion_tokens,
        is_whole=body.finish_reason in FINISHED,
        was_left=body.finish_reason == ProblemCode.CANCELLED,
        already_billed=body.already_billed or 0,
    )
    if str(cost) != body.cost_micro:
        return _failed("price", f"cost is {body.cost_micro}, the tier makes it {cost}")
    return _ok("price", f"{cost} base units of {body.rate.asset} for one {sold.tier} answer")


def _is_of_class(asset: str, asset_class: str) -> bool:
    try:
        return class_of(asset) == asset_class
    except ValueError:
        return False


# --- with evidence ----------------------------------------------------------------------------


def _opened(body: Receipt, data: bytes | None) -> tuple[Check, Check]:
    if data is None:
        return (
            _unchecked("ids", "no evidence given"),
            _unchecked("text", "no evidence given"),
        )
    try:
        evidence = read_closed(data, Evidence, EVIDENCE_LIMIT_BYTES)
        _evidence_well_formed(evidence)
    except Malformed as error:
        return (
            _failed("ids", f"evidence: {error}"),
            _unchecked("text", "the evidence cannot be read"),
        )
    opening = bytes.fromhex(evidence.opening)
    fault = _ids_fault(body, evidence, opening)
    ids = (
        _failed("ids", fault)
        if fault
        else _ok("ids", f"{body.prompt_tokens} prompt ids and {body.output_ids} output ids")
    )
    if text_hmac(opening, evidence.text) != body.text_hmac:
        return ids, _failed("text", "this is not the text that was delivered")
    return ids, _ok("text", f"{len(evidence.text)} characters are those that were delivered")


def _evidence_well_formed(evidence: Evidence) -> None:
    _expect_hex("opening", evidence.opening)
    for name, ids in (("prompt_ids", evidence.prompt_ids), ("output_ids", evidence.output_ids)):
        expect(all(0 <= id < ID_LIMIT for id in ids), name, "an id does not fit 32 bits")


def _ids_fault(body: Receipt, evidence: Evidence, opening: bytes) -> str | None:
    if evidence.receipt != body.id:
        return f"this is the evidence of {evidence.receipt[:64]}"
    if opening_hash(opening) != body.opening_hash:
        return "the opening is not this receipt's"
    if prompt_hmac(opening, evidence.prompt_ids) != body.prompt_hmac:
        return "the prompt's ids are not this receipt's"
    if len(evidence.prompt_ids) != body.prompt_tokens:
        return f"{len(evidence.prompt_ids)} prompt ids, {body.prompt_tokens} billed"
    if len(evidence.output_ids) != body.output_ids:
        return f"{len(evidence.output_ids)} output ids, {body.output_ids} on the receipt"
    ask = ask_hmac(
        Keyed(opening).mac,
        digest=body.artefact,
        max_tokens=body.max_tokens,
        params=msgspec.to_builtins(body.params),
        prompt=body.prompt_hmac,
        seed=body.seed,
    )
    if any(segment.ask != ask for segment in body.segments):
        return "a node was asked something else than the receipt says"
    heads = _heads(opening, evidence, (segment.to for segment in body.segments))
    for number, segment in enumerate(body.segments, start=1):
        if segment.head != heads.get(segment.to):
            return f"the ids up to {segment.to} are not those of segment {number}"
    if body.head != heads[body.output_ids]:
        return "the output ids are not this receipt's"
    return None


def _heads(opening: bytes, evidence: Evidence, at: Iterable[int]) -> dict[int, str]:
    # One walk over the ids, however many segments there are.
    made = IdChain(opening, evidence.prompt_ids)
    heads: dict[int, str] = {}
    end = len(evidence.output_ids)
    for stop in sorted({0, end, *(index for index in at if 0 <= index <= end)}):
        made.extend(evidence.output_ids[made.length : stop])
        heads[stop] = made.head.hex()
    return heads


# --- checks -----------------------------------------------------------------------------------


def _not_reached() -> tuple[Check, ...]:
    names: tuple[CheckName, ...] = (
        "signature",
        "segments",
        "identity",
        "counts",
        "price",
        "ids",
        "text",
    )
    return tuple(_unchecked(name, "the receipt cannot be read") for name in names)


def _ok(name: CheckName, detail: str) -> Check:
    return Check(name=name, state="ok", detail=detail)


def _failed(name: CheckName, detail: str) -> Check:
    return Check(name=name, state="failed", detail=detail)


def _unchecked(name: CheckName, detail: str) -> Check:
    return Check(name=name, state="unchecked", detail=detail)
