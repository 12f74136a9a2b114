// A warm stock buyer: so many paid calls and as many with a key, in turn; their times as one JSON line.
// Read from standard input in the folder of the client packages: `node --input-type=module -`.
import { createKeyPairSignerFromBytes, getBase58Encoder } from "@solana/kit";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { privateKeyToAccount } from "viem/accounts";

const ask = JSON.parse(process.env.BUYER);
const client = new x402Client();
if (ask.solanaKey) {
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(ask.solanaKey));
  client.register("solana:*", new ExactSvmScheme(signer, { rpcUrl: ask.rpc }));
} else {
  client.register("eip155:*", new ExactEvmScheme(privateKeyToAccount(ask.evmKey)));
}
const paying = wrapFetchWithPayment(fetch, client);

async function call(how, headers) {
  const began = performance.now();
  const answer = await how(ask.url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: ask.body,
  });
  const said = await answer.text();
  if (answer.status !== 200) throw new Error(`${answer.status}: ${said}`);
  return performance.now() - began;
}

const times = { paid: [], keyed: [] };
for (let count = -3; count < ask.count; count++) {
  const paid = await call(paying, {});
  const keyed = await call(fetch, { authorization: `Bearer ${ask.key}` });
  if (count < 0) continue; // Warming up.
  times.paid.push(paid);
  times.keyed.push(keyed);
}
console.log(JSON.stringify(times));
