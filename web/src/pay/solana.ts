// Wallets of Solana, as browsers register them (Wallet Standard).

import type { Network } from "../api/shapes";
import { base58 } from "./base58";
import { isOf } from "./network";
import { parts } from "./transaction";
import { failed, garbled, rejected, unable } from "./wallet";
import type { Connected, Offered } from "./wallet";

interface Account {
  address: string;
  publicKey: Uint8Array;
  chains: readonly string[];
}

interface Standard {
  name: string;
  chains: readonly string[];
  accounts: readonly Account[];
  features: {
    "standard:connect"?: { connect(): Promise<{ accounts: readonly Account[] }> };
    "standard:events"?: { on(event: "change", heard: () => void): () => void };
    "solana:signMessage"?: {
      signMessage(input: {
        account: Account;
        message: Uint8Array;
      }): Promise<readonly { signature: Uint8Array }[]>;
    };
    "solana:signTransaction"?: {
      signTransaction(input: {
        account: Account;
        transaction: Uint8Array;
        chain?: string;
      }): Promise<readonly { signedTransaction: Uint8Array }[]>;
    };
  };
}

interface Api {
  register(...wallets: Standard[]): () => void;
}

const NAME_CHARS = 40;
const SIGNATURE_BYTES = 64;
const SHOWN_CHAINS = 4;
/** A wallet names its own chains, and may name any number of them. */

/** The chain by its genesis hash (CAIP-2) as Wallet Standard names it. */
const CHAINS: Record<string, string> = {
  "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp": "solana:mainnet",
  "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1": "solana:devnet",
  "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z": "solana:testnet",
};

/** Tell each wallet that registers itself, now and later; the function ends it. */
export function findSolana(found: (wallet: Offered) => void): () => void {
  const api: Api = {
    register: (...wallets) => {
      for (const wallet of wallets) {
        // Of another blockchain, or too old to sign anything: it is no wallet of Solana.
        const chains = wallet.chains?.some((chain) => chain.startsWith("solana:"));
        if (chains && wallet.features) found(offered(wallet));
      }
      return () => undefined;
    },
  };
  const heard = (event: Event): void => {
    const register = (event as CustomEvent<(api: Api) => void>).detail;
    if (typeof register === "function") register(api);
  };
  window.addEventListener("wallet-standard:register-wallet", heard);
  window.dispatchEvent(new CustomEvent("wallet-standard:app-ready", { detail: api }));
  return () => window.removeEventListener("wallet-standard:register-wallet", heard);
}

function offered(wallet: Standard): Offered {
  const name = String(wallet.name).slice(0, NAME_CHARS);
  return {
    id: `solana:${name}`,
    name,
    family: "solana",
    isTest: false,
    lacks: (network) => lacks(wallet, network),
    connect: () => connect(name, wallet),
  };
}

function lacks(wallet: Standard, network: Network): string | null {
  if (!isOf(network.network, "solana")) return "pays on Solana networks alone";
  if (!wallet.features["solana:signTransaction"]) return "sends payments itself, and signs none";
  const chain = CHAINS[network.network];
  const isThere = !chain || wallet.chains.includes(chain);
  const has = wallet.chains.filter((one) => one.startsWith("solana:"));
  return isThere ? null : `is of ${has.slice(0, SHOWN_CHAINS).join(", ")} alone`;
}

async function connect(name: string, wallet: Standard): Promise<Connected> {
  const account = await first(name, wallet);
  return {
    family: "solana",
    address: account.address,
    name,
    signText: async (text) => {
      const message = new TextEncoder().encode(text);
      const sign = wallet.features["solana:signMessage"];
      if (!sign) throw unable(name);
      const [signed] = await asked(name, () => sign.signMessage({ account, message }));
      if (signed?.signature?.length !== SIGNATURE_BYTES) throw garbled(name, "no signature");
      return base58(new Uint8Array(signed.signature));
    },
    goTo: () => Promise.reject(unable(name)),
    signTyped: () => Promise.reject(unable(name)),
    signTransaction: async (network, transaction) => {
      const sign = wallet.features["solana:signTransaction"];
      if (!sign) throw unable(name);
      const chain = CHAINS[network.network];
      const input = { account, transaction, ...(chain ? { chain } : {}) };
      const [signed] = await asked(name, () => sign.signTransaction(input));
      return whole(name, account.address, transaction, signed?.signedTransaction);
    },
    addNetwork: () => Promise.reject(unable(name)),
    watch: (moved) => watch(wallet, account.address, moved),
  };
}

/** The same transaction with this account's signature; a wallet that changed it is told of. */
function whole(
  name: string,
  address: string,
  asked: Uint8Array<ArrayBuffer>,
  given: Uint8Array | undefined,
): Uint8Array<ArrayBuffer> {
  let signed: Uint8Array<ArrayBuffer>;
  let message: string;
  try {
    signed = new Uint8Array(given ?? []);
    message = String(parts(signed).message);
  } catch {
    throw garbled(name, "no transaction");
  }
  const { message: wanted, signers } = parts(asked);
  // Some add a tip for the network: nobody here would settle what was not offered.
  if (message !== String(wanted)) throw garbled(name, "another payment than it was asked to sign");
  const at = 1 + SIGNATURE_BYTES * signers.indexOf(address);
  if (signed.slice(at, at + SIGNATURE_BYTES).every((byte) => byte === 0)) {
    throw garbled(name, "the payment without a signature");
  }
  return signed;
}

function watch(
  wallet: Standard,
  address: string,
  moved: (address: string | null) => void,
): () => void {
  const events = wallet.features["standard:events"];
  const heard = (): void => {
    const now = wallet.accounts[0]?.address ?? null;
    if (now !== address) moved(now);
  };
  return events?.on("change", heard) ?? (() => undefined);
}

async function first(name: string, wallet: Standard): Promise<Account> {
  const connecting = wallet.features["standard:connect"];
  const accounts = connecting
    ? (await asked(name, () => connecting.connect())).accounts
    : wallet.accounts;
  const account = accounts[0] ?? wallet.accounts[0];
  if (!account) throw failed(name, "it has no account");
  return account;
}

/** Wallet Standard has no code for a person's no; wallets use EIP-1193's, or say it in words. */
async function asked<T>(name: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    const code = (error as { code?: number } | null)?.code;
    const words = error instanceof Error ? error.message : "";
    throw code === 4001 || /reject|declin|denied|cancel/i.test(words)
      ? rejected(name)
      : failed(name, error);
  }
}
