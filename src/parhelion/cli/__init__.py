"""The command line: one file a command, rooms imported inside functions."""

from parhelion.cli.dispatch import main

__all__ = ["main"]
