"""Buy one answer with x402, by httpx: `pip install "x402[svm,evm,httpx]"`."""

import asyncio
import json
import os

from eth_account import Account
from x402 import prefer_network, x402Client
from x402.http import decode_payment_response_header
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact import register_exact_svm_client

URL = os.environ.get("PARHELION_URL", "http://127.0.0.1:3001")
ASK = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 24}


async def main() -> None:
    client = x402Client()
    if key := os.environ.get("SOLANA_KEY"):  # base58; the RPC's URL is needed on LOCAL chains only
        signer = KeypairSigner.from_base58(key)
        register_exact_svm_client(client, signer, rpc_url=os.environ.get("SOLANA_RPC_URL"))
    if key := os.environ.get("EVM_KEY"):  # 0x and 64 hex digits
        register_exact_evm_client(client, Account.from_key(key))
    if network := os.environ.get("X402_NETWORK"):  # with both keys: which one pays
        client.register_policy(prefer_network(network))

    async with x402HttpxClient(client, timeout=60) as http:
        answer = await http.post(f"{URL}/v1/chat/completions", json=ASK)
    answer.raise_for_status()
    paid = decode_payment_response_header(answer.headers["PAYMENT-RESPONSE"])
    said = answer.json()
    text = said["choices"][0]["message"]["content"]
    print(json.dumps({"text": text, "usage": said["usage"], "transaction": paid.transaction}))


asyncio.run(main())
