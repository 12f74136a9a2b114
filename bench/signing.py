"""What the signatures of one request cost in the coordinator, measured apart."""

from __future__ import annotations

import time

from nacl.signing import SigningKey

from parhelion.identity import NodeKey, peer_of, verify

ROUNDS = 300
BODY_BYTES = 1500
"""About the canonical size of a receipt with one segment."""


def signing_s() -> float:
    """Seconds for one signature (the receipt's) and one check (the node's segment)."""
    seed = bytes(range(32))
    key = NodeKey(seed)
    peer = peer_of(bytes(SigningKey(seed).verify_key))
    body = bytes(BODY_BYTES)
    signature = key.sign(body)
    began_s = time.process_time()
    for _ in range(ROUNDS):
        key.sign(body)
        if not verify(peer, body, signature):
            raise RuntimeError("a good signature was refused")
    return (time.process_time() - began_s) / ROUNDS
