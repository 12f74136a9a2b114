"""A stranger's check of a receipt: written from the documents, on Python's standard library alone.

Nothing here imports Parhelion, PyNaCl or the rfc8785 package, so that a mistake which signer and
`verify` share (they share their HMAC, their canonical JSON and libsodium) does not go unseen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from fractions import Fraction
from math import ceil
from typing import Any

# --- Ed25519, RFC 8032 section 6 --------------------------------------------------------------

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def _add(a: Point, b: Point) -> Point:
    first = (a[1] - a[0]) * (b[1] - b[0]) % P
    second = (a[1] + a[0]) * (b[1] + b[0]) % P
    third = 2 * a[3] * b[3] * D % P
    fourth = 2 * a[2] * b[2] % P
    e, f, g, h = second - first, fourth - third, fourth + third, second + first
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


def _x_of(y: int, sign: int) -> int | None:
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def _point(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    x = _x_of(y, sign) if y < P else None
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, -1, P) % P
BASE = _point(BASE_Y.to_bytes(32, "little"))


def signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this key signed this message."""
    key, r = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or r is None or s >= Q or len(signature) != 64:
        return False
    assert BASE is not None
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    left, right = _times(s, BASE), _add(r, _times(h, key))
    return not (left[0] * right[2] - right[0] * left[2]) % P and not (
        (left[1] * right[2] - right[1] * left[2]) % P
    )


# --- canonical JSON, RFC 8785 -----------------------------------------------------------------


def number(value: float) -> str:
    """ECMAScript's Number::toString, from the shortest digits (which Python's repr has too)."""
    if value == 0:
        return "0"
    text = repr(abs(value))
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        said = digits + "0" * (point - count)
    elif 0 < point <= 21:
        said = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        said = "0." + "0" * -point + digits
    else:
        tail = f".{digits[1:]}" if count > 1 else ""
        said = f"{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"-{said}" if value < 0 else said


def canonical(value: Any) -> bytes:
    """RFC 8785's one form of a JSON value."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(canonical(n) + b":" + canonical(value[n]) for n in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).encode()
    if isinstance(value, bool) or value is None:
        return json.dumps(value).encode()
    return number(value).encode() if isinstance(value, float) else str(value).encode()


# --- the receipt ------------------------------------------------------------------------------

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def public_of(peer: str) -> bytes:
    """The key in a peer id: base58 of libp2p's prefix and 32 bytes."""
    total = 0
    for character in peer:
        total = total * 58 + ALPHABET.index(character)
    raw = total.to_bytes(38, "big")
    assert raw[:6] == bytes.fromhex("002408011220")
    return raw[6:]


def raw_of(text: str) -> bytes:
    """Unpadded base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def faults(receipt: dict[str, Any], evidence: dict[str, Any]) -> list[str]:
    """What does not hold, by name."""
    opening = bytes.fromhex(evidence["opening"])
    prompt = struct.pack(f"<{len(evidence['prompt_ids'])}I", *evidence["prompt_ids"])

    def mac(message: bytes) -> bytes:
        return hmac.new(opening, message, hashlib.sha256).digest()

    def without(tree: dict[str, Any], *names: str) -> bytes:
        return canonical({name: value for name, value in tree.items() if name not in names})

    heads = [mac(b"start\0" + prompt)]
    for id in evidence["output_ids"]:
        heads.append(mac(b"next\0" + heads[-1] + struct.pack("<I", id)))
    asked = {
        "digest": receipt["artefact"],
        "max_tokens": receipt["max_tokens"],
        "params": receipt["params"],
        "prompt_hmac": receipt["prompt_hmac"],
        "seed": receipt["seed"],
    }
    message = b"parhelion/receipt/1\0" + without(receipt, "signature")
    held = {
        "signature": signed(
            public_of(receipt["coordinator"]), message, raw_of(receipt["signature"])
        ),
        "opening": receipt["opening_hash"]
        == hashlib.sha256(b"parhelion/opening/1\0" + opening).hexdigest(),
        "prompt": receipt["prompt_hmac"] == mac(b"prompt\0" + prompt).hex(),
        "text": receipt["text_hmac"] == mac(b"text\0" + evidence["text"].encode()).hex(),
        "head": receipt["head"] == heads[-1].hex(),
        "cost": receipt["cost_micro"] == _cost(receipt),
    }
    for at, segment in enumerate(receipt["segments"]):
        message = b"parhelion/segment/1\0" + without(segment, "signature", "reason")
        signature = raw_of(segment["signature"])
        held[f"segment {at} signature"] = signed(public_of(segment["node"]), message, signature)
        held[f"segment {at} head"] = segment["head"] == heads[segment["to"]].hex()
        held[f"segment {at} ask"] = segment["ask"] == mac(b"ask\0" + canonical(asked)).hex()
    return [name for name, holds in held.items() if not holds]


def _cost(receipt: dict[str, Any]) -> str:
    rate = receipt["rate"]
    exact = Fraction(
        receipt["prompt_tokens"] * rate["prompt_micro"]
        + receipt["completion_tokens"] * rate["completion_micro"],
        1_000_000,
    )
    return str(ceil(exact))
