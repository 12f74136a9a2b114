// Wallets of EVM chains, as browsers announce them (EIP-6963, EIP-1193).

import type { Network } from "../api/shapes";
import { spoken } from "./network";
import { failed, rejected, unable, WalletError } from "./wallet";
import type { Connected, Offered, TypedData } from "./wallet";

interface Provider {
  request(call: { method: string; params?: unknown[] }): Promise<unknown>;
}

interface Announced {
  info: { uuid: string; name: string; rdns: string };
  provider: Provider;
}

const REJECTED = 4001;
const UNKNOWN_CHAIN = 4902;
/** EIP-1193 and EIP-3085: the person said no; the wallet does not know the chain. */

const NAME_CHARS = 40;
/** A wallet's own word for itself, shown on a button. */

/** Tell each wallet that announces itself, now and later; the function ends it. */
export function findEvm(found: (wallet: Offered) => void): () => void {
  const heard = (event: Event): void => {
    const announced = (event as CustomEvent<Announced>).detail;
    if (!announced?.info?.uuid || !announced.provider) return;
    const name = String(announced.info.name).slice(0, NAME_CHARS);
    found({
      id: `evm:${announced.info.rdns || announced.info.uuid}`,
      name,
      family: "evm",
      isTest: false,
      connect: () => connect(name, announced.provider),
    });
  };
  window.addEventListener("eip6963:announceProvider", heard);
  window.dispatchEvent(new Event("eip6963:requestProvider"));
  return () => window.removeEventListener("eip6963:announceProvider", heard);
}

async function connect(name: string, provider: Provider): Promise<Connected> {
  const accounts = (await asked(name, provider, "eth_requestAccounts")) as string[];
  const address = accounts[0];
  if (!address) throw failed(name, "it has no account");
  return {
    family: "evm",
    address,
    name,
    signText: async (text) =>
      String(await asked(name, provider, "personal_sign", [hex(text), address])),
    signTyped: async (network, data) => {
      await onto(name, provider, network);
      const typed = JSON.stringify(data satisfies TypedData);
      return String(await asked(name, provider, "eth_signTypedData_v4", [address, typed]));
    },
    signTransaction: () => Promise.reject(unable(name)),
  };
}

/** Have the wallet go to the network that is paid on: it signs for no other. */
async function onto(name: string, provider: Provider, network: Network): Promise<void> {
  const wanted = Number(network.network.split(":")[1]);
  if (Number(await asked(name, provider, "eth_chainId")) === wanted) return;
  const chainId = `0x${wanted.toString(16)}`;
  try {
    await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId }] });
  } catch (error) {
    throw elsewhere(name, network, codeOf(error) === UNKNOWN_CHAIN ? "unknown" : "refused");
  }
  if (Number(await asked(name, provider, "eth_chainId")) !== wanted) {
    throw elsewhere(name, network, "refused");
  }
}

/** The wallet is on another network and stays there. */
function elsewhere(name: string, network: Network, why: "unknown" | "refused"): WalletError {
  const chain = `${spoken(network)}, chain ${network.network.split(":")[1]}`;
  const told = why === "unknown" ? "does not know that network" : "stayed on another network";
  const go = why === "unknown" ? `add ${chain} to ${name}` : `choose ${chain} in ${name}`;
  // A LOCAL chain has a public one's number: the wallet needs that number to sign, and no node.
  const local = network.local ? "; the wallet only signs for that number, and sends nothing" : "";
  return new WalletError(
    "wrong_network",
    `This is paid on ${spoken(network)}, and ${name} ${told}. Nothing was signed or paid.`,
    `${go}, then try again${local}`,
  );
}

async function asked(
  name: string,
  provider: Provider,
  method: string,
  params: unknown[] = [],
): Promise<unknown> {
  try {
    return await provider.request({ method, params });
  } catch (error) {
    throw codeOf(error) === REJECTED ? rejected(name) : failed(name, error);
  }
}

function codeOf(error: unknown): number | undefined {
  return (error as { code?: number } | null)?.code;
}

function hex(text: string): string {
  const bytes = [...new TextEncoder().encode(text)];
  return `0x${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
