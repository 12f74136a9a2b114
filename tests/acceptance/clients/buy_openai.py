"""Buy one answer with x402, by the openai package: only its HTTP client is another one.

`pip install openai "x402[svm,evm,httpx]"`
"""

import asyncio
import json
import os

from eth_account import Account
from openai import AsyncOpenAI
from x402 import prefer_network, x402Client
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact import register_exact_svm_client

URL = os.environ.get("PARHELION_URL", "http://127.0.0.1:3001")
QUESTION = {"role": "user", "content": "Why is the sky blue?"}


async def main() -> None:
    client = x402Client()
    if key := os.environ.get("SOLANA_KEY"):  # base58; the RPC's URL is needed on LOCAL chains only
        signer = KeypairSigner.from_base58(key)
        register_exact_svm_client(client, signer, rpc_url=os.environ.get("SOLANA_RPC_URL"))
    if key := os.environ.get("EVM_KEY"):  # 0x and 64 hex digits
        register_exact_evm_client(client, Account.from_key(key))
    if network := os.environ.get("X402_NETWORK"):  # with both keys: which one pays
        client.register_policy(prefer_network(network))

    # No key of ours, but the package wants one. A retry of its own would be a second payment.
    async with AsyncOpenAI(
        base_url=f"{URL}/v1",
        api_key="none",
        max_retries=0,
        http_client=x402HttpxClient(client, timeout=60),
    ) as openai:
        models = await openai.models.list()
        stream = await openai.chat.completions.create(
            model=models.data[0].id,
            messages=[QUESTION],
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, usage = "", None
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
    print(json.dumps({"text": text, "usage": usage.model_dump()}))


asyncio.run(main())
