"""Serves the web pages: what /web was built into, beside the same API on one origin."""

from __future__ import annotations

from parhelion.web.pages import Pages, build_pages

__all__ = ["Pages", "build_pages"]
