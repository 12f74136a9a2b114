// Wallets of Solana, as browsers register them (Wallet Standard).

import { base58 } from "./base58";
import { failed, rejected, unable } from "./wallet";
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
        if (wallet.features?.["solana:signTransaction"]) found(offered(wallet));
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
    connect: () => connect(name, wallet),
  };
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
      if (!signed) throw failed(name, "it gave no signature");
      return base58(signed.signature);
    },
    signTyped: () => Promise.reject(unable(name)),
    signTransaction: async (network, transaction) => {
      const sign = wallet.features["solana:signTransaction"];
      if (!sign) throw unable(name);
      const chain = CHAINS[network.network];
      const input = { account, transaction, ...(chain ? { chain } : {}) };
      const [signed] = await asked(name, () => sign.signTransaction(input));
      if (!signed) throw failed(name, "it gave no transaction");
      return new Uint8Array(signed.signedTransaction);
    },
  };
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
