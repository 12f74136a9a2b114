"""A receipt of a pipeline lists every stage, and each part is its own node's word."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.identity import NodeKey
from parhelion.proof import Check, sign_receipt, sign_stage, stage_holds, verify
from parhelion.words import Receipt, Segment, StageSegment

SECOND, THIRD = (NodeKey(bytes([n]) * 32) for n in (3, 9))
LAYERS = ((0, 11), (11, 30))


def part(node: NodeKey, segment: Segment, layers: tuple[int, int]) -> StageSegment:
    unsigned = StageSegment(
        node=node.peer,
        job=segment.job,
        attempt=segment.attempt,
        opening_hash=segment.opening_hash,
        artefact=segment.artefact,
        layers=layers,
        start=segment.start,
        to=segment.to,
        head=segment.head,
        busy_ms=120,
    )
    return sign_stage(node, unsigned)


@pytest.fixture
def pipeline(honest: Any) -> Receipt:
    """The honest receipt, its second segment served by a pipeline of two nodes."""
    _first, second = honest.receipt.segments
    stages = (part(THIRD, second, LAYERS[0]), part(SECOND, second, LAYERS[1]))
    return with_stages(honest, stages)


def with_stages(honest: Any, stages: tuple[StageSegment, ...]) -> Receipt:
    first, second = honest.receipt.segments
    told = msgspec.structs.replace(second, stages=stages)
    receipt = msgspec.structs.replace(honest.receipt, segments=(first, told), signature="")
    return sign_receipt(honest.coordinator, receipt)


def check_of(receipt: Receipt) -> Check:
    checks = verify(msgspec.json.encode(receipt))
    return next(check for check in checks if check.name == "segments")


def test_a_receipt_of_a_pipeline_names_every_stage_that_signed(pipeline: Receipt) -> None:
    check = check_of(pipeline)
    assert check.state == "ok"
    assert all(key.peer in check.detail for key in (SECOND, THIRD))


def test_a_receipt_without_a_pipeline_is_the_same_bytes_as_before(honest: Any) -> None:
    assert b"stages" not in msgspec.json.encode(honest.receipt)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": (0, 12)},
        {"layers": (1, 11)},
        {"layers": (0, 0)},
        {"job": "job_9123456789abcdefghijklmnop"},
        {"attempt": 7},
        {"opening_hash": "b" * 64},
        {"artefact": "b" * 64},
        {"to": 3},
        {"start": 1},
        {"head": "c" * 64},
        {"busy_ms": 121},
        {"node": SECOND.peer},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_part_is_found(honest: Any, pipeline: Receipt, change: dict[str, Any]) -> None:
    stages = pipeline.segments[1].stages
    assert isinstance(stages, tuple)
    changed = msgspec.structs.replace(stages[0], **change)
    assert not stage_holds(changed)
    assert check_of(with_stages(honest, (changed, stages[1]))).state == "failed"


def test_a_missing_layer_is_found_although_all_parts_are_signed(honest: Any) -> None:
    second = honest.receipt.segments[1]
    parts = (part(THIRD, second, (0, 11)), part(SECOND, second, (12, 30)))
    assert check_of(with_stages(honest, parts)).state == "failed"


def test_the_stage_that_chose_the_ids_is_the_last_one(honest: Any) -> None:
    second = honest.receipt.segments[1]
    parts = (part(SECOND, second, (0, 11)), part(THIRD, second, (11, 30)))
    assert check_of(with_stages(honest, parts)).state == "failed"


def test_a_part_without_a_signature_says_why(honest: Any, pipeline: Receipt) -> None:
    stages = pipeline.segments[1].stages
    assert isinstance(stages, tuple)
    unsigned = msgspec.structs.replace(stages[0], signature=None, reason="no signature within 2 s")
    check = check_of(with_stages(honest, (unsigned, stages[1])))
    assert check.state == "unchecked"
    assert "no signature within 2 s" in check.detail


def test_a_node_signs_its_own_part_only(pipeline: Receipt) -> None:
    stages = pipeline.segments[1].stages
    assert isinstance(stages, tuple)
    with pytest.raises(ValueError):
        sign_stage(SECOND, stages[0])


def test_a_pipeline_of_one_stage_is_no_pipeline(honest: Any) -> None:
    parts = (part(SECOND, honest.receipt.segments[1], (0, 30)),)
    assert verify(msgspec.json.encode(with_stages(honest, parts)))[0].state == "failed"
