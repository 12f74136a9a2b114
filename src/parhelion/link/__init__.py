"""The node session: messages, handshake, sealed carrier, and dialling a coordinator."""

from __future__ import annotations

from parhelion.link.address import Address, parse_address
from parhelion.link.broken import ByteSocket, ConnectionClosed, LinkBroken
from parhelion.link.carrier import Carrier, accept
from parhelion.link.dial import connect
from parhelion.link.messages import (
    FRAME_LIMIT_BYTES,
    SUBPROTOCOL,
    Alive,
    Bye,
    Cut,
    Drain,
    Draining,
    FromCoordinator,
    FromNode,
    Heartbeat,
    JobFailed,
    Knock,
    Open,
    Register,
    Signed,
    Steps,
    Welcome,
)

__all__ = [
    "FRAME_LIMIT_BYTES",
    "SUBPROTOCOL",
    "Address",
    "Alive",
    "Bye",
    "ByteSocket",
    "Carrier",
    "ConnectionClosed",
    "Cut",
    "Drain",
    "Draining",
    "FromCoordinator",
    "FromNode",
    "Heartbeat",
    "JobFailed",
    "Knock",
    "LinkBroken",
    "Open",
    "Register",
    "Signed",
    "Steps",
    "Welcome",
    "accept",
    "connect",
    "parse_address",
]
