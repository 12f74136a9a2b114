"""What stands behind the baseline proxy: an SSE server that paces tokens like an echo node.

Usage: python -m bench.upstream TOKENS_PER_S   (prints {"api": ...} when it listens)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

from bench.passthrough import listen

PACE_S = 1.0 / float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
CHUNK = {
    "id": "chatcmpl-0123456789abcdef0123456789",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
}
LINE = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
ANSWER = {**CHUNK, "object": "chat.completion", "choices": [{"index": 0, "message": {}}]}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    ask = json.loads(body)
    kind = b"text/event-stream" if ask.get("stream") else b"application/json"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(start)
    if not ask.get("stream"):
        await asyncio.sleep(PACE_S)
        await send({"type": "http.response.body", "body": json.dumps(ANSWER).encode()})
        return
    loop = asyncio.get_running_loop()
    # All streams step at the same moments, as those of an echo node do.
    next_s = loop.time() - (loop.time() % PACE_S if PACE_S else 0.0)
    for _ in range(ask["max_tokens"]):
        next_s += PACE_S
        await asyncio.sleep(max(0.0, next_s - loop.time()))
        await send({"type": "http.response.body", "body": LINE, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


if __name__ == "__main__":
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="warning", lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listen()])
