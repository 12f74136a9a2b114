// Networks that are paid on (CAIP-2), as the pages speak of them.

import type { Network } from "../api/shapes";
import type { Family } from "./wallet";

const LOWER = new Set(["testnet", "devnet", "mainnet", "beta"]);

/** Whether a network (CAIP-2) is of this family. */
export function isOf(network: string, family: Family): boolean {
  return network.startsWith(family === "evm" ? "eip155:" : "solana:");
}

/** "base-sepolia" as people say it: "Base Sepolia", with LOCAL where its money is only play. */
export function spoken(network: Network): string {
  const words = network.name
    .split("-")
    .map((word) => (LOWER.has(word) ? word : word.charAt(0).toUpperCase() + word.slice(1)));
  return `${words.join(" ")}${network.local ? " (LOCAL)" : ""}`;
}

/** Whether a faucet gives play money to who asks here: only its own machine is told of a node. */
export function givesMoney(network: Network): boolean {
  return network.local && typeof network.rpc === "string";
}
