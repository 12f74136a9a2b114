"""Engines that turn token ids into token ids, each in a supervised host process of its own."""

from parhelion.engines.fit import bounded, check_fit, fits_whole, offered_memory, whole_bytes
from parhelion.engines.hidden import FrameBroken
from parhelion.engines.protocol import Engine, EngineCard, EngineEvent, Mismatch
from parhelion.engines.share import share
from parhelion.engines.stage_protocol import StageCard, StageStats, StageTold
from parhelion.engines.stage_supervised import StageHost
from parhelion.engines.supervised import EngineHost

__all__ = [
    "Engine",
    "EngineCard",
    "EngineEvent",
    "EngineHost",
    "FrameBroken",
    "Mismatch",
    "StageCard",
    "StageHost",
    "StageStats",
    "StageTold",
    "bounded",
    "check_fit",
    "fits_whole",
    "offered_memory",
    "share",
    "whole_bytes",
]
