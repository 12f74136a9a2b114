"""Serves the web pages: one plain page made from /health and /v1/nodes, beside the same API."""

from __future__ import annotations

from parhelion.web.pages import Pages, build_pages

__all__ = ["Pages", "build_pages"]
