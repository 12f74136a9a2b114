"""Engines that turn token ids into token ids, each in a supervised host process of its own."""

from parhelion.engines.protocol import Engine, EngineCard, EngineEvent, Mismatch
from parhelion.engines.share import share
from parhelion.engines.supervised import EngineHost

__all__ = ["Engine", "EngineCard", "EngineEvent", "EngineHost", "Mismatch", "share"]
