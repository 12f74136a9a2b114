"""The node session: messages, handshake, sealed carrier, dialling and finding a coordinator."""

from __future__ import annotations

from parhelion.link.address import Address, Sought, parse_address, parse_target
from parhelion.link.broken import ByteSocket, ConnectionClosed, LinkBroken, clipped
from parhelion.link.carrier import Carrier, accept
from parhelion.link.dial import connect
from parhelion.link.discovery import BROWSE_S, LanPool, announced, searching
from parhelion.link.messages import (
    FRAME_LIMIT_BYTES,
    SUBPROTOCOL,
    Alive,
    Bye,
    Cut,
    Drain,
    Draining,
    EngineState,
    FromCoordinator,
    FromNode,
    Heartbeat,
    JobFailed,
    Knock,
    NotTaken,
    Open,
    Register,
    Signed,
    Standing,
    Steps,
    Welcome,
)

__all__ = [
    "BROWSE_S",
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
    "EngineState",
    "FromCoordinator",
    "FromNode",
    "Heartbeat",
    "JobFailed",
    "Knock",
    "LanPool",
    "LinkBroken",
    "NotTaken",
    "Open",
    "Register",
    "Signed",
    "Sought",
    "Standing",
    "Steps",
    "Welcome",
    "accept",
    "announced",
    "clipped",
    "connect",
    "parse_address",
    "parse_target",
    "searching",
]
