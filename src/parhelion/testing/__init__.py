"""The fakes that we ship, for users' tests and ours: an engine, a clock, processes."""

from parhelion.testing.clock import ManualClock
from parhelion.testing.echo import EchoEngine

__all__ = ["EchoEngine", "ManualClock"]
