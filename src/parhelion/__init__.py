"""Parhelion: a pay-per-token inference network."""

__version__ = "0.1.0"
