// Wallets for tests: the page gets an EIP-6963 and a Wallet Standard wallet, the keys stay here.

import { createPrivateKey, generateKeyPairSync, sign as signBytes } from "node:crypto";
import type { KeyObject } from "node:crypto";
import type { Page } from "playwright-core";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

export interface Behaviour {
  /** The person says no to the next so many questions. */
  rejects: number;
  /** The chain that the EVM wallet is on, and whether it goes where it is asked to. */
  chain: number;
  switches: boolean;
  /** Whether the EVM wallet knows that chain, and whether its owner lets it be told of one. */
  knows: boolean;
  adds: boolean;
  /** The chain that it was told of last. */
  added: Record<string, unknown> | null;
  /** Questions are answered when `release` says so, and not before. */
  hangs: boolean;
  release: () => void;
  /** What it gives back in the place of every signature. */
  garbage: unknown;
  /** What it was asked, in order. */
  asked: string[];
}

/** A person at their wallet: to another account, or away from the page. */
export interface Hands {
  /** To an account of its own; `before` the page is told, it can be given something. */
  become: (before?: (address: string) => Promise<unknown>) => Promise<string>;
  disconnect: () => Promise<void>;
}

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function base58(bytes: Uint8Array): string {
  let value = BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
  let text = "";
  for (; value > 0n; value /= 58n) text = BASE58[Number(value % 58n)] + text;
  return text.padStart(text.length + bytes.findIndex((byte) => byte !== 0), "1");
}

/** An EVM wallet that announces itself to this page, and its address. */
export async function giveEvmWallet(
  page: Page,
  name = "Tester EVM",
): Promise<{ address: string } & Behaviour & Hands> {
  let account = privateKeyToAccount(generatePrivateKey());
  const tell = (accounts: string[]): Promise<void> =>
    page.evaluate(
      (told) => (window as unknown as { tellEvmWallet: (a: string[]) => void }).tellEvmWallet(told),
      accounts,
    );
  const state = {
    ...{ address: account.address as string, rejects: 0, chain: 84532, switches: true },
    ...{ knows: true, adds: true, hangs: false, garbage: undefined as unknown },
    added: null as Record<string, unknown> | null,
    asked: [] as string[],
    release: (): void => undefined,
    become: async (before?: (address: string) => Promise<unknown>): Promise<string> => {
      account = privateKeyToAccount(generatePrivateKey());
      state.address = account.address;
      await before?.(account.address);
      await tell([account.address]);
      return account.address;
    },
    disconnect: () => tell([]),
  };
  const answer = async (method: string, params: unknown[]): Promise<unknown> => {
    state.asked.push(method);
    if (method !== "eth_chainId" && state.hangs) {
      await new Promise<void>((resolve) => (state.release = resolve));
    }
    if (state.garbage !== undefined && /sign/.test(method)) return state.garbage;
    if (method !== "eth_chainId" && state.rejects > 0) {
      state.rejects -= 1;
      throw 4001;
    }
    switch (method) {
      case "eth_requestAccounts":
        return [account.address];
      case "eth_chainId":
        return `0x${state.chain.toString(16)}`;
      case "wallet_switchEthereumChain":
        if (!state.knows) throw 4902;
        if (!state.switches) throw 4001;
        state.chain = Number((params[0] as { chainId: string }).chainId);
        return null;
      case "wallet_addEthereumChain":
        if (!state.adds) throw 4001;
        state.added = params[0] as Record<string, unknown>;
        state.knows = true;
        return null;
      case "personal_sign":
        return account.signMessage({ message: { raw: params[0] as `0x${string}` } });
      case "eth_signTypedData_v4": {
        const { EIP712Domain: _, ...types } = JSON.parse(params[1] as string).types;
        return account.signTypedData({ ...JSON.parse(params[1] as string), types });
      }
      default:
        throw 4200;
    }
  };
  await page.exposeFunction("askEvmWallet", async (method: string, params: unknown[]) => {
    try {
      return { value: await answer(method, params) };
    } catch (code) {
      return { code: typeof code === "number" ? code : -1, message: String(code) };
    }
  });
  await page.addInitScript((name) => {
    const ask = (window as unknown as { askEvmWallet: Ask }).askEvmWallet;
    const heard = new Set<(accounts: string[]) => void>();
    Object.assign(window, {
      tellEvmWallet: (accounts: string[]) => heard.forEach((one) => one(accounts)),
    });
    type Ask = (
      m: string,
      p: unknown[],
    ) => Promise<{ value?: unknown; code?: number; message?: string }>;
    const provider = {
      async request({ method, params = [] }: { method: string; params?: unknown[] }) {
        const told = await ask(method, params);
        if (told.code !== undefined) throw Object.assign(new Error("refused"), { code: told.code });
        return told.value;
      },
      on: (event: string, told: (accounts: string[]) => void) =>
        void (event === "accountsChanged" && heard.add(told)),
      removeListener: (_event: string, told: (accounts: string[]) => void) =>
        void heard.delete(told),
    };
    const info = { uuid: "7f1c", name, icon: "data:,", rdns: "test.evm" };
    const announce = (): boolean =>
      window.dispatchEvent(
        new CustomEvent("eip6963:announceProvider", { detail: { info, provider } }),
      );
    window.addEventListener("eip6963:requestProvider", announce);
    announce();
  }, name);
  return state;
}

/** How a Solana wallet behaves: as the EVM one, and it may change what it is to sign. */
export type SolanaWallet = { address: string; changes: boolean } & Pick<
  Behaviour & Hands,
  "rejects" | "hangs" | "release" | "become"
>;

function solanaKey(): { key: KeyObject; raw: Buffer } {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
  return { key: createPrivateKey(privateKey.export({ format: "pem", type: "pkcs8" })), raw };
}

/** A Solana wallet that registers itself with this page, and its address. */
export async function giveSolanaWallet(
  page: Page,
  { name = "Tester Solana", chains = ["solana:testnet"] } = {},
): Promise<SolanaWallet> {
  let { key, raw } = solanaKey();
  const state: SolanaWallet = {
    ...{ address: base58(raw), rejects: 0, hangs: false, changes: false },
    release: () => undefined,
    become: async (before) => {
      ({ key, raw } = solanaKey());
      state.address = base58(raw);
      await before?.(state.address);
      await page.evaluate(
        (told) =>
          (window as unknown as { tellSolanaWallet: (a: unknown) => void }).tellSolanaWallet(told),
        { address: state.address, bytes: [...raw] },
      );
      return state.address;
    },
  };
  await page.exposeFunction("changesOfSolanaWallet", () => state.changes);
  await page.exposeFunction("askSolanaWallet", async (message: number[]) => {
    if (state.hangs) await new Promise<void>((resolve) => (state.release = resolve));
    if (state.rejects > 0) {
      state.rejects -= 1;
      return null;
    }
    return [...signBytes(null, Uint8Array.from(message), key)];
  });
  await page.addInitScript(
    ({ address, bytes, name, chains }) => {
      const changes = (window as unknown as { changesOfSolanaWallet: () => Promise<boolean> })
        .changesOfSolanaWallet;
      const heard = new Set<() => void>();
      const ask = (
        window as unknown as { askSolanaWallet: (m: number[]) => Promise<number[] | null> }
      ).askSolanaWallet;
      const accountOf = (told: { address: string; bytes: number[] }) => ({
        ...{ address: told.address, publicKey: Uint8Array.from(told.bytes), chains, features: [] },
      });
      Object.assign(window, {
        tellSolanaWallet: (told: { address: string; bytes: number[] }) => {
          wallet.accounts = [accountOf(told)];
          heard.forEach((one) => one());
        },
      });
      const sign = async (message: Uint8Array): Promise<Uint8Array> => {
        const made = await ask([...message]);
        if (made === null) throw new Error("User rejected the request.");
        return Uint8Array.from(made);
      };
      const wallet = {
        version: "1.0.0",
        name,
        icon: "data:,",
        chains,
        accounts: [accountOf({ address, bytes })],
        features: {
          "standard:connect": {
            version: "1.0.0",
            connect: async () => ({ accounts: wallet.accounts }),
          },
          "standard:events": {
            version: "1.0.0",
            on: (_event: string, told: () => void) => {
              heard.add(told);
              return () => void heard.delete(told);
            },
          },
          "solana:signMessage": {
            version: "1.0.0",
            signMessage: async ({ message }: { message: Uint8Array }) => [
              { signedMessage: message, signature: await sign(message) },
            ],
          },
          "solana:signTransaction": {
            version: "1.0.0",
            supportedTransactionVersions: [0],
            signTransaction: async ({ transaction }: { transaction: Uint8Array }) => {
              const count = transaction[0]!;
              const signature = await sign(transaction.slice(1 + 64 * count));
              const signed = transaction.slice();
              if (await changes()) signed[signed.length - 1]! ^= 1;
              // The fee payer signs first, the payer second.
              signed.set(signature, 1 + 64 * (count - 1));
              return [{ signedTransaction: signed }];
            },
          },
        },
      };
      type Api = { register: (wallet: unknown) => void };
      const register = (api: Api): void => api.register(wallet);
      window.addEventListener("wallet-standard:app-ready", (event) =>
        register((event as CustomEvent<Api>).detail),
      );
      window.dispatchEvent(
        new CustomEvent("wallet-standard:register-wallet", { detail: register }),
      );
    },
    { address: state.address, bytes: [...raw], name, chains },
  );
  return state;
}
