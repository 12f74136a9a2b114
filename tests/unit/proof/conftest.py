"""One honest receipt with two segments, and its evidence."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from parhelion.identity import NodeKey
from parhelion.proof import (
    ask_digest,
    chain,
    opening_hash,
    prompt_hmac,
    sign_receipt,
    sign_segment,
    text_hmac,
)
from parhelion.words import Evidence, Job, Rate, Receipt, SamplerParams, Segment

OPENING = bytes(range(32))
PROMPT_IDS = (1, 4093, 198, 0, 49_151)
OUTPUT_IDS = (17, 28, 300, 2, 300, 9_000, 0)
TEXT = "Zwölf Boxkämpfer\u2028\x7f 🥊"
COORDINATOR, FIRST, SECOND = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
PARAMS = SamplerParams(temperature=0.7, top_p=1e-7, logit_bias=((5, -1.5), (7, 100.0)))
JOB = Job(
    job="job_0123456789abcdefghijklmnop",
    attempt=1,
    digest="a" * 64,
    cache_scope="s",
    prompt_ids=PROMPT_IDS,
    params=PARAMS,
    seed=2**64 - 1,
    max_tokens=50,
    opening=OPENING,
)


@dataclass
class Honest:
    """What the tests change one thing of."""

    receipt: Receipt
    evidence: Evidence
    coordinator: NodeKey = COORDINATOR
    first: NodeKey = FIRST
    second: NodeKey = SECOND
    opening: bytes = OPENING
    job: Job = JOB

    @property
    def receipt_json(self) -> bytes:
        return msgspec.json.encode(self.receipt)

    @property
    def evidence_json(self) -> bytes:
        return msgspec.json.encode(self.evidence)


def segment(node: NodeKey, attempt: int, start: int, to: int) -> Segment:
    unsigned = Segment(
        node=node.peer,
        job=JOB.job,
        attempt=attempt,
        opening_hash=opening_hash(OPENING),
        artefact="a" * 64,
        backend="cpu",
        start=start,
        to=to,
        head=chain(OPENING, PROMPT_IDS, OUTPUT_IDS[:to]).hex(),
        ask=ask_digest(JOB),
        started_at_ms=1_790_000_000_000 + start,
        ended_at_ms=1_790_000_000_000 + to,
    )
    return sign_segment(node, unsigned)


def unsigned_receipt() -> Receipt:
    segments = (segment(FIRST, 1, 0, 3), segment(SECOND, 2, 3, 7))
    return Receipt(
        v=1,
        id="rcpt_0123456789abcdefghijklmnop",
        coordinator=COORDINATOR.peer,
        asset_class="local",
        issued_at_ms=1_790_000_000_100,
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        artefact="a" * 64,
        vocabulary="b" * 64,
        template="c" * 64,
        opening_hash=opening_hash(OPENING),
        prompt_hmac=prompt_hmac(OPENING, PROMPT_IDS),
        head=chain(OPENING, PROMPT_IDS, OUTPUT_IDS).hex(),
        text_hmac=text_hmac(OPENING, TEXT),
        params=PARAMS,
        seed=str(2**64 - 1),
        max_tokens=50,
        prompt_tokens=5,
        completion_tokens=6,
        cached_tokens=2,
        silent_ids=1,
        output_ids=7,
        finish_reason="stop",
        route="pool",
        migrations=1,
        rate=Rate(
            model="HuggingFaceTB/SmolLM2-135M-Instruct",
            asset="PRLX.local",
            version=3,
            prompt_micro=4_000_000,
            completion_micro=4_000_001,
        ),
        # 5 x 4 + 6 x 4.000001 = 44.000006, rounded up once.
        cost_micro="45",
        segments=segments,
    )


@pytest.fixture(scope="session")
def honest() -> Honest:
    receipt = sign_receipt(COORDINATOR, unsigned_receipt())
    evidence = Evidence(
        receipt=receipt.id,
        opening=OPENING.hex(),
        prompt_ids=PROMPT_IDS,
        output_ids=OUTPUT_IDS,
        text=TEXT,
    )
    return Honest(receipt, evidence)
