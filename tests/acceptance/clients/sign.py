"""Sign one offer of a PAYMENT-REQUIRED header and print the PAYMENT-SIGNATURE for it."""

import os
import sys

from eth_account import Account
from x402 import prefer_network, x402ClientSync
from x402.http import x402HTTPClientSync
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact import register_exact_svm_client

client = x402ClientSync()
if key := os.environ.get("SOLANA_KEY"):  # base58; the RPC's URL is needed on LOCAL chains only
    signer = KeypairSigner.from_base58(key)
    register_exact_svm_client(client, signer, rpc_url=os.environ.get("SOLANA_RPC_URL"))
if key := os.environ.get("EVM_KEY"):  # 0x and 64 hex digits
    register_exact_evm_client(client, Account.from_key(key))
if network := os.environ.get("X402_NETWORK"):  # with both keys: which one pays
    client.register_policy(prefer_network(network))

offers = {"PAYMENT-REQUIRED": sys.argv[1]}
headers, _ = x402HTTPClientSync(client).handle_402_response(offers, None, "")
print(headers["PAYMENT-SIGNATURE"])
