// Buy one answer with x402, by the openai package: only its fetch is another one.
// `npm install openai @x402/fetch @x402/svm @x402/evm @solana/kit viem`
import { createKeyPairSignerFromBytes, getBase58Encoder } from "@solana/kit";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import OpenAI from "openai";
import { privateKeyToAccount } from "viem/accounts";

const env = process.env;
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

// No key of ours, but the package wants one. A retry of its own would be a second payment.
const openai = new OpenAI({
  baseURL: `${env.PARHELION_URL ?? "http://127.0.0.1:3001"}/v1`,
  apiKey: "none",
  maxRetries: 0,
  timeout: 60_000,
  fetch: wrapFetchWithPayment(fetch, client),
});
const models = await openai.models.list();
const stream = await openai.chat.completions.create({
  model: models.data[0].id,
  messages: [{ role: "user", content: "Why is the sky blue?" }],
  max_tokens: 24,
  stream: true,
  stream_options: { include_usage: true },
});
let text = "";
let usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
console.log(JSON.stringify({ text, usage }));
