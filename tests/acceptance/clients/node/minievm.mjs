// Stock viem and @x402/evm on a minievm: argv = RPC URL. One JSON object on stdout.
import { ExactEvmScheme as Buyer } from "@x402/evm/exact/client";
import { ExactEvmScheme as Facilitator } from "@x402/evm/exact/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { createPublicClient, createWalletClient, http, publicActions } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const transport = http(process.argv[2], { batch: true });
const chain = baseSepolia;
const made = () => privateKeyToAccount(generatePrivateKey());
const [buyer, relay, seller] = [made(), made(), made()];
const reader = createPublicClient({ chain, transport, batch: { multicall: true } });
const fund = (address, amounts) =>
  reader.request({ method: "parhelion_fund", params: [address, amounts] });
await fund(buyer.address, { usdc: "1000000", wei: "10000000000000000" });
await fund(relay.address, { wei: "10000000000000000" });

const wallet = createWalletClient({ account: relay, chain, transport }).extend(publicActions);
const signer = toFacilitatorEvmSigner({
  address: relay.address,
  getCode: (a) => wallet.getCode(a),
  readContract: (a) => wallet.readContract(a),
  sendTransaction: (a) => wallet.sendTransaction(a),
  verifyTypedData: (a) => wallet.verifyTypedData(a),
  waitForTransactionReceipt: (a) => wallet.waitForTransactionReceipt(a),
  writeContract: (a) => wallet.writeContract(a),
});
const offer = {
  scheme: "exact",
  network: "eip155:84532",
  asset: USDC,
  amount: "1000",
  payTo: seller.address,
  maxTimeoutSeconds: 60,
  extra: { name: "USDC", version: "2" },
};
const signed = await new Buyer(buyer).createPaymentPayload(2, offer);
const payload = { ...signed, x402Version: 2, accepted: offer };
const facilitator = new Facilitator(signer);
const verified = await facilitator.verify(payload, offer);
const settled = await facilitator.settle(payload, offer);
const second = await facilitator.verify(payload, offer);

const abi = [
  {
    type: "function",
    name: "balanceOf",
    stateMutability: "view",
    inputs: [{ name: "account", type: "address" }],
    outputs: [{ type: "uint256" }],
  },
];
const [paid, wei] = await Promise.all([
  reader.readContract({ address: USDC, abi, functionName: "balanceOf", args: [seller.address] }),
  reader.getBalance({ address: buyer.address }),
]);
const own = createWalletClient({ account: buyer, chain, transport });
const hash = await own.sendTransaction({ to: seller.address, value: 5n });
const receipt = await reader.waitForTransactionReceipt({ hash });
const refusals = [];
for (const wrong of [
  { nonce: 0 },
  { nonce: 99 },
  { maxFeePerGas: 5n, maxPriorityFeePerGas: 1n },
  { value: 5n * 10n ** 18n },
  { gas: 100n },
]) {
  try {
    await own.sendTransaction({ to: seller.address, value: 1n, gas: 21_000n, ...wrong });
    refusals.push("taken");
  } catch (error) {
    refusals.push(error.cause?.name ?? error.name);
  }
}
console.log(
  JSON.stringify({
    verified: verified.isValid,
    settled: settled.success,
    transaction: settled.transaction,
    payer: settled.payer,
    buyer: buyer.address,
    seller: seller.address,
    second: second.invalidReason,
    paid: String(paid),
    wei: String(wei),
    sent: [receipt.status, receipt.type, String(receipt.gasUsed)],
    refusals,
  }),
);
