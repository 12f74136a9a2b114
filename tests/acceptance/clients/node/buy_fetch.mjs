// Buy one answer with x402, by fetch: `npm install @x402/fetch @x402/svm @x402/evm @solana/kit viem`.
import { createKeyPairSignerFromBytes, getBase58Encoder } from "@solana/kit";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { privateKeyToAccount } from "viem/accounts";

const env = process.env;
const url = env.PARHELION_URL ?? "http://127.0.0.1:3001";
const ask = { messages: [{ role: "user", content: "Why is the sky blue?" }], max_tokens: 24 };

const client = new x402Client();
if (env.SOLANA_KEY) {
  // base58; the RPC's URL is needed on LOCAL chains only
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(env.SOLANA_KEY));
  client.register("solana:*", new ExactSvmScheme(signer, { rpcUrl: env.SOLANA_RPC_URL }));
}
if (env.EVM_KEY) {
  // 0x and 64 hex digits
  client.register("eip155:*", new ExactEvmScheme(privateKeyToAccount(env.EVM_KEY)));
}
if (env.X402_NETWORK) {
  // with both keys: which one pays
  client.registerPolicy((_, offers) => offers.filter((o) => o.network === env.X402_NETWORK));
}

const paying = wrapFetchWithPayment(fetch, client);
const answer = await paying(`${url}/v1/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(ask),
  signal: AbortSignal.timeout(60_000),
});
const said = await answer.json();
if (!answer.ok) throw new Error(said.error.message);
const paid = decodePaymentResponseHeader(answer.headers.get("PAYMENT-RESPONSE"));
const text = said.choices[0].message.content;
console.log(JSON.stringify({ text, usage: said.usage, transaction: paid.transaction }));
