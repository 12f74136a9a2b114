// Wallets of EVM chains, as browsers announce them (EIP-6963, EIP-1193).

import type { Network } from "../api/shapes";
import { isOf, spoken } from "./network";
import { failed, garbled, rejected, unable, WalletError } from "./wallet";
import type { Connected, Offered, TypedData } from "./wallet";

interface Provider {
  request(call: { method: string; params?: unknown[] }): Promise<unknown>;
  on?(event: string, heard: (told: unknown) => void): void;
  removeListener?(event: string, heard: (told: unknown) => void): void;
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

const COIN = { name: "Ether", symbol: "ETH", decimals: 18 };
/** What fees are paid in on every EVM network that the server knows; a payment here pays none. */

const ADDRESS = /^0x[0-9a-fA-F]{40}$/;
const SIGNATURE = /^0x(?:[0-9a-fA-F]{2}){65,}$/;
/** r, s and v; a wallet that is a contract signs with more. */

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
      lacks: (network) => (isOf(network.network, "evm") ? null : "pays on EVM networks alone"),
      connect: () => connect(name, announced.provider),
    });
  };
  window.addEventListener("eip6963:announceProvider", heard);
  window.dispatchEvent(new Event("eip6963:requestProvider"));
  return () => window.removeEventListener("eip6963:announceProvider", heard);
}

async function connect(name: string, provider: Provider): Promise<Connected> {
  const address = first(await asked(name, provider, "eth_requestAccounts"));
  if (!address) throw failed(name, "it has no account");
  const signature = async (method: string, params: unknown[]): Promise<string> => {
    const made = await asked(name, provider, method, params);
    if (typeof made === "string" && SIGNATURE.test(made)) return made;
    throw garbled(name, "no signature");
  };
  return {
    family: "evm",
    address,
    name,
    signText: (text) => signature("personal_sign", [hex(text), address]),
    goTo: (network) => goTo(name, provider, network),
    signTyped: (data) =>
      signature("eth_signTypedData_v4", [address, JSON.stringify(data satisfies TypedData)]),
    signTransaction: () => Promise.reject(unable(name)),
    addNetwork: (network) => add(name, provider, network),
    watch: (moved) => watch(provider, address, moved),
  };
}

/** The address of the account that a wallet shows first; null for none, or what is no list. */
function first(accounts: unknown): string | null {
  const one: unknown = Array.isArray(accounts) ? accounts[0] : undefined;
  return typeof one === "string" && ADDRESS.test(one) ? one : null;
}

function watch(
  provider: Provider,
  address: string,
  moved: (address: string | null) => void,
): () => void {
  const chosen = (accounts: unknown): void => {
    const now = first(accounts);
    // Capitals of an address are only a checksum, and some wallets tell what has not changed.
    if (now?.toLowerCase() !== address.toLowerCase()) moved(now);
  };
  provider.on?.("accountsChanged", chosen);
  return () => provider.removeListener?.("accountsChanged", chosen);
}

async function goTo(name: string, provider: Provider, network: Network): Promise<void> {
  const wanted = number(network);
  if (Number(await asked(name, provider, "eth_chainId")) === wanted) return;
  try {
    const params = [{ chainId: hexNumber(wanted) }];
    await provider.request({ method: "wallet_switchEthereumChain", params });
  } catch (error) {
    throw elsewhere(name, network, isUnknown(error) ? "unknown" : "refused");
  }
  if (Number(await asked(name, provider, "eth_chainId")) !== wanted) {
    throw elsewhere(name, network, "refused");
  }
}

/** EIP-3085: with what the server says of the network. */
async function add(name: string, provider: Provider, network: Network): Promise<void> {
  const chain = {
    chainId: hexNumber(number(network)),
    chainName: spoken(network),
    nativeCurrency: COIN,
    rpcUrls: [network.rpc],
  };
  try {
    await provider.request({ method: "wallet_addEthereumChain", params: [chain] });
  } catch (error) {
    const isNo = codeOf(error) === REJECTED;
    const told = isNo
      ? `You declined to add ${spoken(network)} in ${name}. Nothing was signed or paid.`
      : failed(name, error).message.replace("did not sign", `did not add ${spoken(network)}`);
    throw new WalletError("wrong_network", told, byHand(name, network));
  }
}

/** The wallet is on another network and stays there, or does not know the one that is meant. */
function elsewhere(name: string, network: Network, why: "unknown" | "refused"): WalletError {
  const told = why === "unknown" ? "does not know that network" : "stayed on another network";
  // A LOCAL chain has a public one's number: the wallet needs that number to sign, and no node.
  const local = network.local ? "; the wallet only signs for that number, and sends nothing" : "";
  const chain = `${spoken(network)}, chain ${number(network)}`;
  const go = why === "unknown" ? byHand(name, network) : `choose ${chain} in ${name}`;
  return new WalletError(
    why === "unknown" && typeof network.rpc === "string" ? "unknown_network" : "wrong_network",
    `This is paid on ${spoken(network)}, and ${name} ${told}. Nothing was signed or paid.`,
    `${go}, then try again${local}`,
  );
}

function byHand(name: string, network: Network): string {
  return `add ${spoken(network)}, chain ${number(network)} to ${name}`;
}

/** The chain's own number, of "eip155:84532". */
export function number(network: Network): number {
  return Number(network.network.split(":")[1]);
}

function hexNumber(value: number): string {
  return `0x${value.toString(16)}`;
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

/** Some wallets on phones wrap this refusal in one of their own. */
function isUnknown(error: unknown): boolean {
  const inner = (error as { data?: { originalError?: unknown } } | null)?.data?.originalError;
  return codeOf(error) === UNKNOWN_CHAIN || codeOf(inner) === UNKNOWN_CHAIN;
}

function codeOf(error: unknown): number | undefined {
  return (error as { code?: number } | null | undefined)?.code;
}

function hex(text: string): string {
  const bytes = [...new TextEncoder().encode(text)];
  return `0x${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
