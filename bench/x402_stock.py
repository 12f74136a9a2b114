"""The stock seller: x402's own middleware around the bare pass-through of `bench.passthrough`.

Usage: python -m bench.x402_stock SETTINGS.json   (prints {"api": ...} when it listens)

The middleware is the one for FastAPI, of which it uses names that are Starlette's own. It is given
the facilitator classes of the package in this process, each call in a thread of its own: as it
comes, a facilitator in the same process would hold the event loop while it waits for a chain.
`/hinted/...` adds a blockhash to Solana offers, for which the package asks the chain each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvicorn
from starlette import requests, responses
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from bench import passthrough

SOLANA, EVM = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532"
PRICE = "$0.001"
PATH, HINTED = "/v1/chat/completions", "/hinted/v1/chat/completions"
FREE = "/free/v1/chat/completions"
"""The same answers without a payment, behind the same middleware."""


class Settings(msgspec.Struct):
    """Where the chains and the answers are, and the keys of this seller."""

    upstream: str
    solana_rpc: str
    evm_rpc: str
    solana_seller: str
    evm_seller: str
    solana_key: str
    evm_key: str


class Threaded:
    """The stock facilitator as a client of the stock server, off the event loop."""

    def __init__(self, settings: Settings) -> None:
        from solders.keypair import Keypair
        from x402 import x402FacilitatorSync
        from x402.mechanisms.evm.exact import register_exact_evm_facilitator
        from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
        from x402.mechanisms.svm.exact import register_exact_svm_facilitator
        from x402.mechanisms.svm.signers import FacilitatorKeypairSigner

        self._inner = x402FacilitatorSync()
        fee_payer = Keypair.from_base58_string(settings.solana_key)
        solana = FacilitatorKeypairSigner(fee_payer, settings.solana_rpc)
        register_exact_svm_facilitator(self._inner, solana, SOLANA)
        evm = FacilitatorWeb3Signer(settings.evm_key, settings.evm_rpc)
        register_exact_evm_facilitator(self._inner, evm, EVM)

    def get_supported(self) -> Any:
        return self._inner.get_supported()

    async def verify(self, payload: Any, requirements: Any) -> Any:
        return await asyncio.to_thread(self._inner.verify, payload, requirements)

    async def settle(self, payload: Any, requirements: Any) -> Any:
        return await asyncio.to_thread(self._inner.settle, payload, requirements)


def middleware(settings: Settings, facilitator: Threaded, path: str, rpc_url: str | None) -> Any:
    """The stock middleware for one route, with one offer a network."""
    from x402 import x402ResourceServer
    from x402.http.types import PaymentOption, RouteConfig
    from x402.mechanisms.evm.exact import ExactEvmServerScheme
    from x402.mechanisms.svm.exact import ExactSvmServerScheme

    # Of any type: its own classes are not what its own protocols say.
    server: Any = x402ResourceServer(facilitator)
    server.register(SOLANA, ExactSvmServerScheme(rpc_url))
    server.register(EVM, ExactEvmServerScheme())
    accepts = [
        PaymentOption(scheme="exact", pay_to=pay_to, price=PRICE, network=network)
        for network, pay_to in ((SOLANA, settings.solana_seller), (EVM, settings.evm_seller))
    ]
    route = RouteConfig(accepts=accepts, description="one answer", mime_type="application/json")
    return _stock_module().payment_middleware({f"POST {path}": route}, server)


def _stock_module() -> Any:
    fastapi, its_responses = types.ModuleType("fastapi"), types.ModuleType("fastapi.responses")
    fastapi.__dict__.update(Request=requests.Request, Response=responses.Response)
    for name in ("HTMLResponse", "JSONResponse"):
        setattr(its_responses, name, getattr(responses, name))
    sys.modules.setdefault("fastapi", fastapi)
    sys.modules.setdefault("fastapi.responses", its_responses)
    from x402.http.middleware import fastapi as found

    return found


def build(settings: Settings) -> Starlette:
    """The seller's application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        passthrough.UPSTREAM = settings.upstream
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as app.state.session:
            yield

    facilitator = Threaded(settings)
    plain = middleware(settings, facilitator, PATH, None)
    hinted = middleware(settings, facilitator, HINTED, settings.solana_rpc)

    async def dispatch(request: requests.Request, call_next: Any) -> responses.Response:
        chosen = hinted if request.url.path == HINTED else plain
        return await chosen(request, call_next)

    paths = (PATH, HINTED, FREE)
    routes = [Route(path, passthrough.chat, methods=["POST"]) for path in paths]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return app


if __name__ == "__main__":
    told = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)
    config = uvicorn.Config(
        build(told), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[passthrough.listen()])
