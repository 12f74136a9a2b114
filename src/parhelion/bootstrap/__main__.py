"""`python -m parhelion.bootstrap`: the local node's process (see local_node)."""

from __future__ import annotations

import asyncio

from parhelion.bootstrap.local_node import serve_parent
from parhelion.hosts import claim_pipe

raise SystemExit(asyncio.run(serve_parent(claim_pipe())))
