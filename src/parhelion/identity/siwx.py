"""x402's `sign-in-with-x`: what a 402 declares, and the header that a wallet's client answers with.

The client signs the same texts as everybody else (`sign_in`), and sends their fields beside the
signature; pure.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from parhelion.identity import nonces
from parhelion.identity.sign_in import EVM, STATEMENT, VERSION, Message, fault, written

EXTENSION = "sign-in-with-x"
HEADER = b"sign-in-with-x"

HEADER_LIMIT_BYTES = 8192
"""A stock client's has some 900."""

TYPES = {True: "eip191", False: "ed25519"}
"""The kinds of signature, by whether the chain is an EVM one."""

SCHEMES = (None, "eip191", "siws")
"""What the optional `signatureScheme` may say: no wallet here is a contract."""

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["domain", "address", "uri", "chainId", "nonce", "signature"],
}
"""Of what comes back. Short: every 402 carries it in a header, and proxies take headers of 4 kB."""


class Answer(Message, frozen=True, kw_only=True, rename="camel"):
    """What the header holds; as in every x402 message, unknown fields are ignored."""

    type: str
    signature: str
    signature_scheme: str | None = None


_decoder = msgspec.json.Decoder(Answer)


def declaration(
    domain: str,
    uri: str,
    networks: Sequence[str],
    nonce: str,
    now_ms: int,
    statement: str = STATEMENT,
) -> dict[str, Any]:
    """What stands at `extensions["sign-in-with-x"]` of a 402; `networks` are CAIP-2 ids."""
    return {
        "info": {
            "domain": domain,
            "uri": uri,
            "statement": statement,
            "version": VERSION,
            "nonce": nonce,
            "issuedAt": written(now_ms),
            "expirationTime": written(now_ms + nonces.LIFETIME_S * 1000),
        },
        "supportedChains": [
            {"chainId": network, "type": TYPES[network.startswith(EVM)]} for network in networks
        ],
        "schema": SCHEMA,
    }


def answer_of(value: bytes) -> Answer:
    """The fields and the signature of a header; Problem SIGN_IN_INVALID for what is none."""
    again = "send what an x402 client makes of the sign-in-with-x extension of our 402"
    if len(value) > HEADER_LIMIT_BYTES:
        raise fault(f"the header has more than {HEADER_LIMIT_BYTES} bytes", again)
    try:
        answer = _decoder.decode(base64.b64decode(value, validate=True))
    except (msgspec.DecodeError, ValueError) as error:
        words = "the header is not the base64 of a JSON object with all its fields"
        raise fault(words, again) from error
    except RecursionError:
        raise fault("the header is nested too deeply", again) from None
    if answer.type != TYPES[answer.chain_id.startswith(EVM)]:
        raise fault("the kind of signature does not go with the chain", again)
    if answer.signature_scheme not in SCHEMES:
        raise fault("contracts cannot sign in", "sign in with a wallet that has a key of its own")
    return answer
