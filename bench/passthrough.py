"""The baseline: a bare Starlette + aiohttp pass-through proxy that does nothing but forward.

uvicorn with uvloop and httptools; TCP_NODELAY is asyncio's and aiohttp's default, asserted below.
Usage: python -m bench.passthrough UPSTREAM_URL   (prints {"api": ...} when it listens)
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

UPSTREAM = sys.argv[1] if len(sys.argv) > 1 else ""


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as app.state.session:
        yield


async def chat(request: Request) -> Response:
    upstream = await request.app.state.session.post(
        UPSTREAM + "/v1/chat/completions",
        data=await request.body(),
        headers={"content-type": "application/json"},
    )
    kind = upstream.headers["content-type"]
    if kind.startswith("text/event-stream"):
        return StreamingResponse(upstream.content.iter_any(), media_type=kind)
    return Response(await upstream.read(), media_type=kind)


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    print(json.dumps({"api": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    return listener


if __name__ == "__main__":
    app = Starlette(
        routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan
    )
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listen()])
