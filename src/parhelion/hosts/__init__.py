"""Supervised child processes: framed messages over their pipes, and their death as an event."""

from parhelion.hosts.child import Child, ChildGone
from parhelion.hosts.inside import Pipe, claim_pipe
from parhelion.hosts.pulse import PING_EVERY_S, SILENCE_LIMIT_S, Pulse
from parhelion.hosts.resident import resident_bytes
from parhelion.hosts.retry import backoff_s

__all__ = [
    "PING_EVERY_S",
    "SILENCE_LIMIT_S",
    "Child",
    "ChildGone",
    "Pipe",
    "Pulse",
    "backoff_s",
    "claim_pipe",
    "resident_bytes",
]
