"""What a receipt says of prompt, ids and text without showing them, and who signed it; pure.

Everything secret enters as HMAC-SHA256 under the request's `opening`, a 32-byte key, over a tag
and the data. No tag is a prefix of another and what follows has a fixed layout (ids are u32,
little-endian), so no value made for one purpose can stand for another:

    opening_hash = SHA256("parhelion/opening/1" 00 | opening)
    prompt_hmac  = HMAC(opening, "prompt" 00 | prompt ids)
    text_hmac    = HMAC(opening, "text" 00 | UTF-8 text)
    head 0       = HMAC(opening, "start" 00 | prompt ids)
    head n+1     = HMAC(opening, "next" 00 | head n (32 bytes) | id n (4 bytes))
    ask          = HMAC(opening, "ask" 00 | RFC 8785 of
                        {digest, max_tokens, params, prompt_hmac, seed as text})

A head therefore commits to the prompt and to every id before it, in order. Signatures are Ed25519
over a domain, a zero byte and the RFC 8785 form of the object without its `signature` member (a
segment also without `reason`, which is the coordinator's word, not the node's, and without
`stages`, each of which is signed by a node of its own).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from parhelion.identity import NodeKey, bytes_of, text_of, verify
from parhelion.proof.canonical import canonical, dumps, plain, written
from parhelion.words import Job, Problem, Receipt, Segment, StageSegment

OPENING_BYTES = 32
BLOCK_BYTES = 64
"""SHA-256's block: HMAC pads its key to it."""

_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))

ID_LIMIT = 2**32
"""Ids are hashed as u32: no vocabulary comes near."""

OPENING_DOMAIN = b"parhelion/opening/1\0"
SEGMENT_DOMAIN = b"parhelion/segment/1\0"
STAGE_DOMAIN = b"parhelion/stage/1\0"
RECEIPT_DOMAIN = b"parhelion/receipt/1\0"
LEAF_DOMAIN = b"parhelion/leaf/1\0"

# States to copy: to make one is to look its algorithm up, which takes longer than a short hash.
_SHA256 = hashlib.sha256()
_OPENING = hashlib.sha256(OPENING_DOMAIN)
_LEAF = hashlib.sha256(LEAF_DOMAIN)


# --- ids and text under the opening -----------------------------------------------------------


def opening_hash(opening: bytes) -> str:
    """What names the opening on a receipt before it is shown."""
    hashed = _OPENING.copy()
    hashed.update(_checked(opening))
    return hashed.hexdigest()


def prompt_hmac(opening: bytes, ids: Sequence[int]) -> str:
    """The prompt's ids, hidden."""
    return _mac(opening, b"prompt\0" + packed(ids)).hex()


def text_hmac(opening: bytes, text: str) -> str:
    """The text that was delivered, hidden."""
    return _mac(opening, b"text\0" + text.encode()).hex()


def chain_start(opening: bytes, prompt_ids: Sequence[int]) -> bytes:
    """The head before the first output id."""
    return _mac(opening, b"start\0" + packed(prompt_ids))


def chain_next(opening: bytes, head: bytes, id: int) -> bytes:
    """The head after one more id; `IdChain` does the same faster for many."""
    return _mac(opening, b"next\0" + head + id.to_bytes(4, "little"))


def chain(opening: bytes, prompt_ids: Sequence[int], output_ids: Iterable[int]) -> bytes:
    """The head after all of `output_ids`."""
    made = IdChain(opening, prompt_ids)
    made.extend(output_ids)
    return made.head


class Keyed:
    """HMAC-SHA256 under one opening.

    The two keyed states are made once and copied: a one-shot HMAC sets its key up each time, which
    costs more than the hashing, and it hands the GIL over.
    """

    __slots__ = ("inner", "outer")

    def __init__(self, opening: bytes) -> None:
        key = _checked(opening).ljust(BLOCK_BYTES, b"\0")
        self.inner, self.outer = _SHA256.copy(), _SHA256.copy()
        self.inner.update(key.translate(_INNER_PAD))
        self.outer.update(key.translate(_OUTER_PAD))

    def mac(self, message: bytes) -> bytes:
        """The HMAC of a message."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class IdChain:
    """The id chain of one request as it grows; about a microsecond an id."""

    def __init__(self, opening: bytes, prompt_ids: Sequence[int]) -> None:
        self._start(Keyed(opening), packed(prompt_ids))

    @classmethod
    def after(cls, keyed: Keyed, prompt: bytes) -> IdChain:
        """The chain after a packed prompt, where both are at hand."""
        made = cls.__new__(cls)
        made._start(keyed, prompt)
        return made

    def _start(self, keyed: Keyed, prompt: bytes) -> None:
        self._outer = keyed.outer
        self._inner = keyed.inner.copy()
        self._inner.update(b"next\0")
        self.head = keyed.mac(b"start\0" + prompt)
        self.length = 0

    def extend(self, ids: Iterable[int]) -> None:
        """Take more output ids, in order."""
        head = self.head
        for id in ids:
            inner = self._inner.copy()
            inner.update(head + id.to_bytes(4, "little"))
            outer = self._outer.copy()
            outer.update(inner.digest())
            head = outer.digest()
            self.length += 1
        self.head = head


def ask_digest(job: Job) -> str:
    """What the node was asked, hidden: it binds its segment to model, sampling, seed and prompt.

    Attempt and ids so far are left out: every attempt at a request was asked the same.
    """
    return Hidden(job).ask


def ask_hmac(
    mac: Callable[[bytes], bytes],
    *,
    digest: str,
    max_tokens: int,
    params: Any,
    prompt: str,
    seed: str,
) -> str:
    """`ask_digest` from the fields of a receipt; `prompt` is its `prompt_hmac`."""
    asked = {
        "digest": digest,
        "max_tokens": max_tokens,
        "params": params,
        "prompt_hmac": prompt,
        # A seed has 64 bits and RFC 8785 numbers 53: it travels as text.
        "seed": seed,
    }
    return mac(b"ask\0" + dumps(asked)).hex()


class Hidden:
    """What a receipt says of one job's prompt and ask, each made once, when it is first asked for.

    Attempts at one request have all of it in common.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._keyed = Keyed(job.opening)
        self._prompt = packed(job.prompt_ids)

    def chain(self) -> IdChain:
        """A new chain after the job's prompt."""
        return IdChain.after(self._keyed, self._prompt)

    def text_hmac(self, text: str) -> str:
        """`text_hmac` of a text of the job's."""
        return self._keyed.mac(b"text\0" + text.encode()).hex()

    @cached_property
    def opening_hash(self) -> str:
        """`opening_hash` of the job's opening."""
        return opening_hash(self._job.opening)

    @cached_property
    def prompt_hmac(self) -> str:
        """`prompt_hmac` of the job's prompt."""
        return self._keyed.mac(b"prompt\0" + self._prompt).hex()

    @cached_property
    def ask(self) -> str:
        """`ask_digest` of the job."""
        job = self._job
        return ask_hmac(
            self._keyed.mac,
            digest=job.digest,
            max_tokens=job.max_tokens,
            params=msgspec.to_builtins(job.params),
            prompt=self.prompt_hmac,
            seed=str(job.seed),
        )


def packed(ids: Sequence[int]) -> bytes:
    """Ids as u32, little-endian; ValueError for an id that is none."""
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error as error:
        raise ValueError("an id does not fit 32 bits") from error


def _mac(opening: bytes, message: bytes) -> bytes:
    return hmac.digest(_checked(opening), message, "sha256")


def _checked(opening: bytes) -> bytes:
    # A short opening would let a guessed prompt be confirmed by trying all openings.
    if len(opening) != OPENING_BYTES:
        raise ValueError(f"an opening has {OPENING_BYTES} bytes, not {len(opening)}")
    return opening


# --- signatures -------------------------------------------------------------------------------


def sign_segment(key: NodeKey, segment: Segment) -> Segment:
    """The segment with its node's signature; the key must be the named node's."""
    if segment.node != key.peer:
        raise ValueError("a node signs only its own segments")
    signature = text_of(key.sign(_segment_message(segment)))
    return msgspec.structs.replace(segment, signature=signature, reason=None)


def segment_holds(segment: Segment) -> bool:
    """Whether the named node signed exactly this segment."""
    if segment.signature is None:
        return False
    try:
        message = _segment_message(segment)
    except Problem:
        return False  # A number without a canonical form: nobody can have signed it.
    return _signed(segment.node, message, segment.signature)


def sign_stage(key: NodeKey, segment: StageSegment) -> StageSegment:
    """A stage's part with its node's signature; the key must be the named node's."""
    if segment.node != key.peer:
        raise ValueError("a node signs only its own part")
    signature = text_of(key.sign(_stage_message(segment)))
    return msgspec.structs.replace(segment, signature=signature, reason=None)


def stage_holds(segment: StageSegment) -> bool:
    """Whether the named node signed exactly this part."""
    if segment.signature is None:
        return False
    try:
        message = _stage_message(segment)
    except Problem:
        return False  # A number without a canonical form: nobody can have signed it.
    return _signed(segment.node, message, segment.signature)


def sign_receipt(key: NodeKey, receipt: Receipt) -> Receipt:
    """The receipt with its coordinator's signature; the key must be the named coordinator's."""
    return seal_receipt(key, receipt)[0]


def seal_receipt(key: NodeKey, receipt: Receipt) -> tuple[Receipt, bytes]:
    """The signed receipt and its canonical form, which share most of the work."""
    if receipt.coordinator != key.peer:
        raise ValueError("a coordinator signs only its own receipts")
    body = plain(receipt)
    del body["signature"]
    signature = text_of(key.sign(RECEIPT_DOMAIN + written(body)))
    body["signature"] = signature
    return msgspec.structs.replace(receipt, signature=signature), written(body)


def receipt_holds(receipt: Receipt) -> bool:
    """Whether the named coordinator signed exactly this receipt."""
    return _signed(receipt.coordinator, _receipt_message(receipt), receipt.signature)


def leaf_hash(receipt: Receipt) -> str:
    """The receipt's leaf in the trees of settlement: it covers the signature too."""
    return leaf_of(canonical(receipt))


def leaf_of(body: bytes) -> str:
    """`leaf_hash` of a receipt's canonical form."""
    hashed = _LEAF.copy()
    hashed.update(body)
    return hashed.hexdigest()


def _segment_message(segment: Segment) -> bytes:
    body = msgspec.to_builtins(segment)
    del body["signature"], body["reason"]
    body.pop("stages", None)
    return SEGMENT_DOMAIN + dumps(body)


def _stage_message(segment: StageSegment) -> bytes:
    body = msgspec.to_builtins(segment)
    del body["signature"], body["reason"]
    return STAGE_DOMAIN + dumps(body)


def _receipt_message(receipt: Receipt) -> bytes:
    body = msgspec.to_builtins(receipt)
    del body["signature"]
    return RECEIPT_DOMAIN + dumps(body)


def _signed(peer: str, message: bytes, signature: str) -> bool:
    try:
        raw = bytes_of(signature)
    except ValueError:
        return False
    return verify(peer, message, raw)
