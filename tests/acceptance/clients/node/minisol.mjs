// Stock @solana/kit and @x402/svm on a minisol: `minisol.mjs RPC WS MINT CAIP2`.
// Reads balances, sends and confirms by subscription, pays and settles; prints one JSON line.
import {
  address,
  appendTransactionMessageInstructions,
  createSolanaRpc,
  createSolanaRpcSubscriptions,
  createTransactionMessage,
  generateKeyPairSigner,
  getBase58Encoder,
  getSignatureFromTransaction,
  lamports,
  pipe,
  sendAndConfirmTransactionFactory,
  setTransactionMessageFeePayerSigner,
  setTransactionMessageLifetimeUsingBlockhash,
  signTransactionMessageWithSigners,
  testnet,
} from "@solana/kit";
import { toFacilitatorSvmSigner } from "@x402/svm";
import { ExactSvmScheme as Buyer } from "@x402/svm/exact/client";
import { ExactSvmScheme as Facilitator } from "@x402/svm/exact/facilitator";

const [rpcUrl, wsUrl, mint, network] = process.argv.slice(2);
const rpc = createSolanaRpc(testnet(rpcUrl));
const rpcSubscriptions = createSolanaRpcSubscriptions(testnet(wsUrl));
const told = {};

async function fund(to, gift) {
  const body = { jsonrpc: "2.0", id: 1, method: "minisol_fund", params: [to, gift] };
  const headers = { "content-type": "application/json" };
  const answer = await fetch(rpcUrl, { method: "POST", headers, body: JSON.stringify(body) });
  const { result, error } = await answer.json();
  if (error) throw new Error(error.message);
  return result.signature;
}

async function confirmed(signature) {
  for (;;) {
    const { value } = await rpc.getSignatureStatuses([signature]).send();
    if (value[0]?.confirmationStatus === "confirmed") return value[0];
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function transferOf(from, to, amount) {
  const data = new Uint8Array(12);
  new DataView(data.buffer).setUint32(0, 2, true);
  new DataView(data.buffer).setBigUint64(4, amount, true);
  return {
    programAddress: address("11111111111111111111111111111111"),
    accounts: [
      { address: from.address, role: 3, signer: from },
      { address: to, role: 1 },
    ],
    data,
  };
}

const [buyer, seller, feePayer] = await Promise.all([1, 2, 3].map(() => generateKeyPairSigner()));
await fund(buyer.address, { usdc: "1000000", lamports: 1_000_000_000 });
await fund(seller.address, { usdc: "1" });
await confirmed(await fund(feePayer.address, { lamports: 1_000_000_000 }));

told.lamports = Number((await rpc.getBalance(buyer.address).send()).value);
told.genesis = await rpc.getGenesisHash().send();
const held = await rpc
  .getTokenAccountsByOwner(buyer.address, { mint: address(mint) }, { encoding: "jsonParsed" })
  .send();
told.usdc = held.value[0].account.data.parsed.info.tokenAmount.amount;

// @solana/kit: builds, signs, sends with preflight, and waits for its subscriptions.
const { value: latest } = await rpc.getLatestBlockhash().send();
const sent = await signTransactionMessageWithSigners(
  pipe(
    createTransactionMessage({ version: 0 }),
    (message) => setTransactionMessageFeePayerSigner(buyer, message),
    (message) => setTransactionMessageLifetimeUsingBlockhash(latest, message),
    (message) =>
      appendTransactionMessageInstructions(
        [transferOf(buyer, seller.address, lamports(10_000_000n))],
        message,
      ),
  ),
);
const began = performance.now();
await sendAndConfirmTransactionFactory({ rpc, rpcSubscriptions })(sent, { commitment: "confirmed" });
told.confirm_ms = Math.round(performance.now() - began);
told.seller_lamports = Number((await rpc.getBalance(seller.address).send()).value);
const how = { commitment: "confirmed", encoding: "json", maxSupportedTransactionVersion: 0 };
const landed = await rpc.getTransaction(getSignatureFromTransaction(sent), how).send();
told.fee = Number(landed.meta.fee);
told.signature_bytes = getBase58Encoder().encode(getSignatureFromTransaction(sent)).length;

// @x402/svm: a stock buyer's payment, verified and settled by a stock facilitator.
const accepted = {
  scheme: "exact",
  network,
  asset: mint,
  amount: "10000",
  payTo: seller.address,
  maxTimeoutSeconds: 60,
  extra: { feePayer: feePayer.address },
};
const made = await new Buyer(buyer, { rpcUrl }).createPaymentPayload(2, accepted);
const payment = { ...made, accepted };
const facilitator = new Facilitator(toFacilitatorSvmSigner(feePayer, { defaultRpcUrl: rpcUrl }));
told.verified = (await facilitator.verify(payment, accepted)).isValid;
const settled = await facilitator.settle(payment, accepted);
told.settled = settled.success;
told.transaction = settled.transaction;
told.payer_is_buyer = settled.payer === buyer.address;
const again = new Facilitator(toFacilitatorSvmSigner(feePayer, { defaultRpcUrl: rpcUrl }));
told.second = await again.verify(payment, accepted);
told.seller = seller.address;
console.log(JSON.stringify(told));
process.exit(0);
