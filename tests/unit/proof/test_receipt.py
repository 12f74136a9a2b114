"""What a receipt hides is bound to its opening, and what it says to its signer."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.proof import (
    IdChain,
    ask_digest,
    canonical,
    chain,
    chain_next,
    chain_start,
    leaf_hash,
    opening_hash,
    prompt_hmac,
    segment_holds,
    sign_receipt,
    sign_segment,
    text_hmac,
)
from parhelion.words import Problem, ProblemCode, SamplerParams

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=20)
OPENINGS = st.binary(min_size=32, max_size=32)
OPENING = bytes(range(32))


def mac(message: bytes) -> bytes:
    return hmac.new(OPENING, message, hashlib.sha256).digest()


def test_the_values_are_those_that_the_documentation_spells_out() -> None:
    assert opening_hash(OPENING) == hashlib.sha256(b"parhelion/opening/1\0" + OPENING).hexdigest()
    assert prompt_hmac(OPENING, (1, 258)) == mac(b"prompt\0\1\0\0\0\2\1\0\0").hex()
    assert text_hmac(OPENING, "ä") == mac(b"text\0\xc3\xa4").hex()
    start = mac(b"start\0\1\0\0\0\2\1\0\0")
    assert chain_start(OPENING, (1, 258)) == start
    assert chain_next(OPENING, start, 7) == mac(b"next\0" + start + b"\7\0\0\0")


def test_the_values_stay_what_they_were() -> None:
    # Receipts outlive programs: a change here makes every old one unreadable.
    assert chain(OPENING, (1, 2, 3), (4, 5)).hex() == (
        "500ca5dd0d7a021143eb1af32c3293f6f87473f5fc78a78b480851fb60ee8eaf"
    )
    assert prompt_hmac(OPENING, ()) == (
        "8553033ead1b358b0fdc0701c306d8580968c9ae15fe7d9fa190b09b9ecb4b01"
    )


@given(OPENINGS, IDS, IDS, st.integers(0, 20))
def test_a_chain_grows_the_same_way_in_one_go_in_parts_and_by_single_ids(
    opening: bytes, prompt: list[int], output: list[int], cut: int
) -> None:
    whole = chain(opening, prompt, output)
    parts = IdChain(opening, prompt)
    parts.extend(output[:cut])
    parts.extend(output[cut:])
    head = chain_start(opening, prompt)
    for id in output:
        head = chain_next(opening, head, id)
    assert whole == parts.head == head
    assert parts.length == len(output)


@given(OPENINGS, IDS, IDS, IDS, IDS)
def test_other_ids_make_another_head(
    opening: bytes, prompt: list[int], output: list[int], prompt2: list[int], output2: list[int]
) -> None:
    same = (prompt, output) == (prompt2, output2)
    assert (chain(opening, prompt, output) == chain(opening, prompt2, output2)) == same


@pytest.mark.parametrize("id", [-1, 2**32])
def test_an_id_that_is_none_is_refused(id: int) -> None:
    with pytest.raises(ValueError):
        prompt_hmac(OPENING, (id,))
    with pytest.raises((ValueError, OverflowError)):
        chain(OPENING, (), (id,))


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_an_opening_of_another_size_is_refused(size: int) -> None:
    for use in (opening_hash, lambda o: text_hmac(o, ""), lambda o: IdChain(o, ())):
        with pytest.raises(ValueError):
            use(bytes(size))


def test_an_ask_binds_model_sampling_seed_length_and_prompt(honest: Any) -> None:
    job = honest.job
    changes: list[dict[str, Any]] = [
        {"digest": "b" * 64},
        {"seed": job.seed - 1},
        {"max_tokens": 51},
        {"prompt_ids": (1,)},
        {"params": SamplerParams(temperature=0.7)},
        {"opening": bytes(32)},
    ]
    asks = {ask_digest(msgspec.structs.replace(job, **change)) for change in changes}
    assert len(asks | {ask_digest(job)}) == len(changes) + 1
    later = msgspec.structs.replace(job, attempt=3, output_ids=(1, 2), cache_scope="other")
    assert ask_digest(later) == ask_digest(job)


def test_a_node_signs_its_own_segments_only(honest: Any) -> None:
    segment = honest.receipt.segments[0]
    assert segment_holds(segment)
    with pytest.raises(ValueError):
        sign_segment(honest.second, segment)
    assert not segment_holds(msgspec.structs.replace(segment, signature=None))
    assert not segment_holds(msgspec.structs.replace(segment, node=honest.second.peer))


def test_the_coordinators_word_beside_a_segment_is_not_the_nodes(honest: Any) -> None:
    unsigned = msgspec.structs.replace(
        honest.receipt.segments[0], signature=None, reason="no answer in 2 s"
    )
    assert sign_segment(honest.first, unsigned) == honest.receipt.segments[0]


def test_every_field_of_a_segment_is_signed(honest: Any) -> None:
    segment = honest.receipt.segments[0]
    for field in segment.__struct_fields__:
        if field in {"signature", "reason", "stages"}:
            continue
        value = getattr(segment, field)
        other = value + 1 if isinstance(value, int) else honest.second.peer
        assert not segment_holds(msgspec.structs.replace(segment, **{field: other})), field


def test_a_coordinator_signs_its_own_receipts_only(honest: Any) -> None:
    with pytest.raises(ValueError):
        sign_receipt(honest.first, honest.receipt)


def test_a_signature_of_one_kind_is_none_of_another(honest: Any) -> None:
    # The same bytes under another domain: what a node signs elsewhere never makes a segment.
    key: NodeKey = honest.first
    segment = honest.receipt.segments[0]
    body = msgspec.to_builtins(segment)
    del body["signature"], body["reason"]
    from parhelion.identity import text_of

    for domain in (b"", b"parhelion/receipt/1\0", b"parhelion/segment/1"):
        signature = text_of(key.sign(domain + rfc8785.dumps(body)))
        assert not segment_holds(msgspec.structs.replace(segment, signature=signature))


@pytest.mark.parametrize("name", ["start", "to", "attempt", "started_at_ms", "ended_at_ms"])
@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63])
def test_a_number_that_has_no_form_makes_a_segment_that_does_not_hold(
    honest: Any, name: str, number: int
) -> None:
    segment = honest.receipt.segments[0]
    assert not segment_holds(msgspec.structs.replace(segment, **{name: number}))


def test_the_canonical_form_is_one_whatever_json_carried_it(honest: Any) -> None:
    plain = canonical(honest.receipt)
    pretty = json.dumps(json.loads(plain), indent=3)
    again = msgspec.json.decode(pretty, type=type(honest.receipt))
    assert again == honest.receipt
    assert canonical(again) == plain
    assert leaf_hash(again) == leaf_hash(honest.receipt)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 2**53},
        {"model": "\ud800"},
        {"params": SamplerParams(temperature=float("nan"))},
        {"params": SamplerParams(temperature=float("inf"))},
    ],
)
def test_what_json_cannot_say_exactly_is_refused(honest: Any, change: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        canonical(msgspec.structs.replace(honest.receipt, **change))
    assert caught.value.code == ProblemCode.RECEIPT_INVALID


def test_the_leaf_covers_the_signature(honest: Any) -> None:
    other = msgspec.structs.replace(honest.receipt, signature="A" * 86)
    assert leaf_hash(other) != leaf_hash(honest.receipt)


def test_a_coordinator_without_an_engine_never_loads_numpy() -> None:
    code = "import parhelion.proof, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
