"""Any change of a receipt or its evidence is refused, with the check that failed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.proof import Check, chain, sign_receipt, sign_segment, verify
from parhelion.words import Receipt, Segment

NAMES = ["format", "signature", "segments", "identity", "counts", "price", "ids", "text"]


def states(checks: tuple[Check, ...]) -> dict[str, str]:
    assert [check.name for check in checks] == NAMES
    assert all(check.detail for check in checks)
    return {check.name: check.state for check in checks}


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {name for name, state in states(checks).items() if state == "failed"}


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every scalar and of every container, the root aside."""
    found = [path] if path else []
    if isinstance(tree, dict):
        for name, value in tree.items():
            found += leaves(value, (*path, name))
    if isinstance(tree, list):
        for index, value in enumerate(tree):
            found += leaves(value, (*path, index))
    return found


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def put(tree: Any, path: tuple[Any, ...], value: Any) -> bytes:
    changed = json.loads(json.dumps(tree))
    at(changed, path[:-1])[path[-1]] = value
    return json.dumps(changed).encode()


def others(value: Any) -> list[Any]:
    """Values beside this one: near, far, and of another type."""
    if isinstance(value, bool) or value is None:
        return ["", 0, 1, "x"]
    if isinstance(value, int | float):
        return [value + 1, value - 1, -value - 1, value + 0.5, str(value), None, 2**53, 10**30]
    if isinstance(value, str):
        flipped = ("B" if value[:1] != "B" else "C") + value[1:]
        return [value + "x", value[:-1], flipped, value.upper() + " ", value + "=", None, 7, []]
    if isinstance(value, list):
        return [[*value, value[0]] if value else [1], value[:-1], value[::-1], None, {}]
    return [{**value, "extra": 1}, {}, None, []]


# --- what holds -------------------------------------------------------------------------------


def test_an_honest_receipt_holds_in_every_check(honest: Any) -> None:
    checks = verify(honest.receipt_json, honest.evidence_json, honest.coordinator.peer)
    assert set(states(checks).values()) == {"ok"}
    assert honest.coordinator.peer in checks[1].detail


def test_without_evidence_and_identity_it_says_what_it_could_not_check(honest: Any) -> None:
    checks = verify(honest.receipt_json)
    unchecked = {name for name, state in states(checks).items() if state == "unchecked"}
    assert unchecked == {"identity", "ids", "text"}
    assert honest.coordinator.peer in checks[3].detail


def test_spaces_and_order_change_nothing(honest: Any) -> None:
    tree = json.loads(honest.receipt_json)
    turned = json.dumps(dict(reversed(tree.items())), indent=2).encode() + b"\n"
    assert not failed(verify(turned, honest.evidence_json, honest.coordinator.peer))


def test_an_unsigned_segment_is_unchecked_with_the_reason(honest: Any) -> None:
    silent = msgspec.structs.replace(
        honest.receipt.segments[1], signature=None, reason="no answer in 2 s"
    )
    checks = verify(resigned(honest, segments=(honest.receipt.segments[0], silent)))
    assert states(checks)["segments"] == "unchecked"
    assert "no answer in 2 s" in checks[2].detail


def test_a_receipt_without_output_needs_no_segment(honest: Any) -> None:
    head = chain(honest.opening, honest.evidence.prompt_ids, ()).hex()
    data = resigned(
        honest,
        segments=(),
        output_ids=0,
        completion_tokens=0,
        silent_ids=0,
        migrations=0,
        cost_micro="20",
        head=head,
    )
    evidence = msgspec.structs.replace(honest.evidence, output_ids=())
    checks = verify(data, msgspec.json.encode(evidence), honest.coordinator.peer)
    assert set(states(checks).values()) == {"ok"}


def test_what_a_cut_run_billed_is_not_billed_again(honest: Any) -> None:
    # 2 of the 6 completion tokens and the prompt were billed before: 4 x 4.000001, rounded up.
    assert not failed(verify(resigned(honest, already_billed=2, cost_micro="17")))
    assert failed(verify(resigned(honest, already_billed=2))) == {"price"}
    assert failed(verify(resigned(honest, already_billed=7, cost_micro="0"))) == {"counts"}


# --- what does not ----------------------------------------------------------------------------


def test_a_change_of_any_part_of_a_receipt_is_refused(honest: Any) -> None:
    tree = json.loads(honest.receipt_json)
    paths = leaves(tree)
    assert len(paths) > 60
    for path in paths:
        for other in others(at(tree, path)):
            checks = verify(put(tree, path, other), None, honest.coordinator.peer)
            assert failed(checks), (path, other)


def test_a_change_of_any_part_of_the_evidence_is_refused(honest: Any) -> None:
    tree = json.loads(honest.evidence_json)
    for path in leaves(tree):
        for other in others(at(tree, path)):
            checks = verify(honest.receipt_json, put(tree, path, other))
            assert failed(checks) & {"ids", "text"}, (path, other)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_other_value_anywhere_is_refused(honest: Any, data: st.DataObject) -> None:
    tree = json.loads(honest.receipt_json)
    path = data.draw(st.sampled_from(leaves(tree)))
    value = at(tree, path)
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    other = data.draw(scalars.filter(lambda new: new != value or isinstance(new, bool)))
    assert failed(verify(put(tree, path, other), None, honest.coordinator.peer))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 4_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(honest: Any, at: int, byte: int) -> None:
    data = bytearray(honest.receipt_json)
    data[at % len(data)] = byte
    if not failed(verify(bytes(data), None, honest.coordinator.peer)):
        assert json.loads(data) == json.loads(honest.receipt_json)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"v":' + b"[" * 100_000)
@example(b'{"rate":{"x":' + b"[" * 100_000)
@example(b'{"v":' + b"9" * 10_000 + b"}")
@example(b'{"v":NaN}')
@example(b" " * 300_000)
def test_foreign_bytes_are_refused_without_a_crash(honest: Any, data: bytes) -> None:
    assert failed(verify(data, data, "x")) == {"format"}
    assert failed(verify(honest.receipt_json, data)) == {"ids"}


def test_deep_nesting_beside_the_known_members_is_refused(honest: Any) -> None:
    deep = honest.receipt_json.replace(
        b'"asset":', b'"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"asset":', 1
    )
    assert failed(verify(deep)) == {"format"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v":1,', b'"v":1,"v":1,'),
        (b'"asset":"PRLX.local",', b'"asset":"PRLX.local","asset":"PRLX.local",'),
        (b'"version":3,', b'"version":3,"more":null,'),
        (b'"min_p":0.0,', b""),
        (b'"v":1,', b""),
        (b'"already_billed":null,', b""),
    ],
)
def test_doubled_added_and_missing_members_are_refused_at_any_depth(
    honest: Any, old: bytes, new: bytes
) -> None:
    assert old in honest.receipt_json
    assert failed(verify(honest.receipt_json.replace(old, new, 1))) == {"format"}


def test_a_second_spelling_of_a_signature_is_refused(honest: Any) -> None:
    signature = honest.receipt.signature
    # 64 bytes leave 4 unused bits in the last of the 86 characters.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = signature[:-1] + last[last.index(signature[-1]) + 1]
    changed = msgspec.structs.replace(honest.receipt, signature=other)
    assert failed(verify(msgspec.json.encode(changed))) == {"signature"}


def test_another_coordinator_is_named(honest: Any) -> None:
    checks = verify(honest.receipt_json, None, honest.first.peer)
    assert failed(checks) == {"identity"}
    assert honest.coordinator.peer in checks[3].detail


def test_whose_key_it_is_cannot_be_said_of_a_receipt_that_was_changed(honest: Any) -> None:
    changed = honest.receipt_json.replace(b'"cost_micro":"', b'"cost_micro":"1', 1)
    for coordinator in (honest.coordinator.peer, None):
        checks = {c.name: c for c in verify(changed, None, coordinator)}
        assert checks["signature"].state == "failed"
        assert checks["identity"].state == "unchecked"
        assert "signature does not hold" in checks["identity"].detail
    other = NodeKey(b"another".ljust(32)).peer
    checks = {c.name: c for c in verify(changed, None, other)}
    assert checks["identity"].state == "failed"
    # Unchanged, the same two questions are answered.
    checks = {c.name: c for c in verify(honest.receipt_json, None, honest.coordinator.peer)}
    assert checks["identity"].state == "ok"


def test_a_receipt_signed_anew_by_another_fails_only_on_identity(honest: Any) -> None:
    thief: NodeKey = honest.first
    stolen = msgspec.structs.replace(honest.receipt, coordinator=thief.peer)
    data = msgspec.json.encode(sign_receipt(thief, stolen))
    assert failed(verify(data, honest.evidence_json, honest.coordinator.peer)) == {"identity"}


# --- a coordinator that signs what is not so --------------------------------------------------


def resigned(honest: Any, **changes: Any) -> bytes:
    changed: Receipt = msgspec.structs.replace(honest.receipt, **changes)
    return msgspec.json.encode(sign_receipt(honest.coordinator, changed))


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("price", {"cost_micro": "46"}),
        ("price", {"cost_micro": "44"}),
        ("price", {"model": "another"}),
        ("price", {"asset_class": "main"}),
        ("counts", {"silent_ids": 2}),
        ("counts", {"max_tokens": 6}),
        ("counts", {"cached_tokens": 6}),
        ("counts", {"migrations": -1}),
        ("counts", {"migrations": 0}),
        ("counts", {"migrations": 2}),
        ("counts", {"prompt_tokens": -1, "cached_tokens": -2}),
        ("segments", {"output_ids": 8, "silent_ids": 2}),
        ("segments", {"head": "d" * 64}),
        ("segments", {"artefact": "d" * 64}),
        ("segments", {"opening_hash": "d" * 64}),
        ("format", {"v": 2}),
        ("format", {"seed": "01"}),
        ("format", {"seed": "-0"}),
        ("format", {"cost_micro": "045"}),
        ("format", {"cost_micro": "٤٥"}),
        ("format", {"artefact": "A" * 64}),
        ("format", {"head": "d" * 63}),
        ("format", {"id": "rcpt_x"}),
        ("format", {"route": "elsewhere"}),
        ("format", {"asset_class": "play"}),
        ("format", {"finish_reason": "because"}),
        ("format", {"finish_reason": ""}),
    ],
)
def test_a_signature_does_not_make_a_false_word_true(
    honest: Any, check: str, changes: dict[str, Any]
) -> None:
    assert check in failed(verify(resigned(honest, **changes)))


@pytest.mark.parametrize(
    ("attempts", "finish", "migrations", "holds"),
    [
        # The first attempt, or the second, delivered nothing: it has no segment.
        ((2, 3), "stop", 2, True),
        ((1, 3), "stop", 2, True),
        # Older receipts count only the moves of what had been delivered.
        ((1, 3), "stop", 1, True),
        ((1, 2), "stop", 2, False),
        ((1, 3), "stop", 3, False),
        ((1, 3), "stop", 0, False),
        # What was cut may have been lost by attempts after the last that delivered.
        ((1, 2), "node_lost", 3, True),
        ((1, 2), "node_lost", 0, False),
    ],
)
def test_migrations_are_as_many_as_its_attempts_can_be(
    honest: Any, attempts: tuple[int, int], finish: str, migrations: int, holds: bool
) -> None:
    told = {"finish_reason": finish, "migrations": migrations}
    data = with_segments(honest, *({"attempt": attempt} for attempt in attempts), **told)
    assert failed(verify(data)) == (set() if holds else {"counts"})


def with_segments(honest: Any, *changes: dict[str, Any], **told: Any) -> bytes:
    """The receipt over segments that their nodes signed so."""
    keys = {key.peer: key for key in (honest.first, honest.second)}
    segments: list[Segment] = []
    for segment, change in zip(honest.receipt.segments, changes, strict=True):
        changed = msgspec.structs.replace(segment, **change)
        segments.append(sign_segment(keys[changed.node], changed))
    return resigned(honest, segments=tuple(segments), **told)


@pytest.mark.parametrize(
    "changes",
    [
        ({}, {"start": 2}),
        ({}, {"start": 4}),
        ({"to": 2}, {}),
        ({}, {"to": 6}),
        ({"start": 1}, {}),
        ({}, {"head": "e" * 64}),
        ({}, {"artefact": "e" * 64}),
        ({}, {"opening_hash": "e" * 64}),
        ({}, {"ask": "e" * 64}),
        ({}, {"attempt": 1}),
        ({"attempt": 3}, {}),
        ({}, {"ended_at_ms": 0}),
    ],
)
def test_segments_must_tile_the_output_of_one_ask(
    honest: Any, changes: tuple[dict[str, Any], ...]
) -> None:
    assert failed(verify(with_segments(honest, *changes))) == {"segments"}


def test_a_segment_that_another_node_signed_is_refused(honest: Any) -> None:
    first, second = honest.receipt.segments
    swapped = msgspec.structs.replace(first, node=honest.second.peer)
    assert failed(verify(resigned(honest, segments=(swapped, second)))) == {"segments"}


def test_segments_of_another_request_do_not_count_for_this_one(honest: Any) -> None:
    # Every node was asked the same, signed it, and means another request than this receipt does.
    other = {"job": "job_" + "7" * 26}
    assert failed(verify(with_segments(honest, other, other))) == {"segments"}


@pytest.mark.parametrize("reason", ["stop", "length", "node_lost", "cancelled", "draining"])
def test_the_reasons_that_an_answer_ends_for_are_known(honest: Any, reason: str) -> None:
    assert not failed(verify(resigned(honest, finish_reason=reason)))


def test_a_segment_is_signed_or_has_a_reason_never_both(honest: Any) -> None:
    first, second = honest.receipt.segments
    both = msgspec.structs.replace(first, reason="late")
    assert failed(verify(resigned(honest, segments=(both, second)))) == {"format"}


def test_too_many_segments_are_refused(honest: Any) -> None:
    many = honest.receipt.segments[:1] * 65
    assert failed(verify(resigned(honest, segments=many))) == {"format"}


# --- evidence that does not open this receipt -------------------------------------------------


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("ids", {"receipt": "rcpt_other"}),
        ("ids", {"opening": "00" * 32}),
        ("ids", {"opening": "zz" * 32}),
        ("ids", {"opening": "00"}),
        ("ids", {"prompt_ids": (1,)}),
        ("ids", {"prompt_ids": (2**32,)}),
        ("ids", {"prompt_ids": (-1,)}),
        ("ids", {"output_ids": (17, 28, 300, 2, 300, 9_000, 1)}),
        ("ids", {"output_ids": (28, 17, 300, 2, 300, 9_000, 0)}),
        ("ids", {"output_ids": (17, 28, 300)}),
        ("text", {"text": ""}),
        ("text", {"text": "Zwölf Boxkämpfer"}),
    ],
)
def test_other_evidence_is_refused(honest: Any, check: str, changes: dict[str, Any]) -> None:
    evidence = msgspec.json.encode(msgspec.structs.replace(honest.evidence, **changes))
    assert check in failed(verify(honest.receipt_json, evidence))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 49},
        {"seed": "1"},
        {"prompt_tokens": 6, "cost_micro": "49"},
        {"head": "d" * 64},
    ],
)
def test_evidence_uncovers_a_receipt_about_something_else(
    honest: Any, changes: dict[str, Any]
) -> None:
    checks = verify(resigned(honest, **changes), honest.evidence_json)
    assert "ids" in failed(checks)


def test_evidence_uncovers_a_head_that_an_unsigned_segment_hides(honest: Any) -> None:
    first, second = honest.receipt.segments
    hidden = msgspec.structs.replace(first, head="e" * 64, signature=None, reason="late")
    checks = verify(resigned(honest, segments=(hidden, second)), honest.evidence_json)
    assert failed(checks) == {"ids"}


@pytest.mark.parametrize("name", ["prompt_hmac", "opening_hash"])
def test_evidence_uncovers_a_false_commitment_that_no_segment_repeats(
    honest: Any, name: str
) -> None:
    empty = {
        "segments": (),
        "output_ids": 0,
        "completion_tokens": 0,
        "silent_ids": 0,
        "migrations": 0,
        "cost_micro": "20",
        "head": chain(honest.opening, honest.evidence.prompt_ids, ()).hex(),
    }
    evidence = msgspec.json.encode(msgspec.structs.replace(honest.evidence, output_ids=()))
    assert not failed(verify(resigned(honest, **empty), evidence))
    assert failed(verify(resigned(honest, **empty, **{name: "d" * 64}), evidence)) == {"ids"}
