// Wallets for tests: the page gets an EIP-6963 and a Wallet Standard wallet, the keys stay here.

import { createPrivateKey, generateKeyPairSync, sign as signBytes } from "node:crypto";
import type { Page } from "playwright-core";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

export interface Behaviour {
  /** The person says no to the next so many questions. */
  rejects: number;
  /** The chain that the EVM wallet is on, and whether it goes where it is asked to. */
  chain: number;
  switches: boolean;
}

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function base58(bytes: Uint8Array): string {
  let value = BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
  let text = "";
  for (; value > 0n; value /= 58n) text = BASE58[Number(value % 58n)] + text;
  return text.padStart(text.length + bytes.findIndex((byte) => byte !== 0), "1");
}

/** An EVM wallet that announces itself to this page, and its address. */
export async function giveEvmWallet(page: Page): Promise<{ address: string } & Behaviour> {
  const account = privateKeyToAccount(generatePrivateKey());
  const state = { address: account.address, rejects: 0, chain: 84532, switches: true };
  const answer = async (method: string, params: unknown[]): Promise<unknown> => {
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
        if (!state.switches) throw 4001;
        state.chain = Number((params[0] as { chainId: string }).chainId);
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
  await page.addInitScript(() => {
    const ask = (window as unknown as { askEvmWallet: Ask }).askEvmWallet;
    type Ask = (m: string, p: unknown[]) => Promise<{ value?: unknown; code?: number; message?: string }>;
    const provider = {
      async request({ method, params = [] }: { method: string; params?: unknown[] }) {
        const told = await ask(method, params);
        if (told.code !== undefined) throw Object.assign(new Error("refused"), { code: told.code });
        return told.value;
      },
    };
    const info = { uuid: "7f1c", name: "Tester EVM", icon: "data:,", rdns: "test.evm" };
    const announce = (): boolean =>
      window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: { info, provider } }));
    window.addEventListener("eip6963:requestProvider", announce);
    announce();
  });
  return state;
}

/** A Solana wallet that registers itself with this page, and its address. */
export async function giveSolanaWallet(page: Page): Promise<{ address: string; rejects: number }> {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
  const key = createPrivateKey(privateKey.export({ format: "pem", type: "pkcs8" }));
  const state = { address: base58(raw), rejects: 0 };
  await page.exposeFunction("askSolanaWallet", (message: number[]) => {
    if (state.rejects > 0) {
      state.rejects -= 1;
      return null;
    }
    return [...signBytes(null, Uint8Array.from(message), key)];
  });
  await page.addInitScript(
    ({ address, bytes }) => {
      const ask = (window as unknown as { askSolanaWallet: (m: number[]) => Promise<number[] | null> })
        .askSolanaWallet;
      const account = { address, publicKey: Uint8Array.from(bytes), chains: ["solana:testnet"], features: [] };
      const sign = async (message: Uint8Array): Promise<Uint8Array> => {
        const made = await ask([...message]);
        if (made === null) throw new Error("User rejected the request.");
        return Uint8Array.from(made);
      };
      const wallet = {
        version: "1.0.0",
        name: "Tester Solana",
        icon: "data:,",
        chains: ["solana:testnet"],
        accounts: [account],
        features: {
          "standard:connect": { version: "1.0.0", connect: async () => ({ accounts: [account] }) },
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
      window.dispatchEvent(new CustomEvent("wallet-standard:register-wallet", { detail: register }));
    },
    { address: state.address, bytes: [...raw] },
  );
  return state;
}
