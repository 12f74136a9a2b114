"""The OpenAI-compatible API and the pool's own routes: thin adapters to Ask and Chunk."""

from __future__ import annotations

from parhelion.api.app import Api, build_app
from parhelion.api.door import Door
from parhelion.api.server import Serving, run, serve

__all__ = ["Api", "Door", "Serving", "build_app", "run", "serve"]
