// The built-in test wallet: a Solana key of this browser, for LOCAL test money and nothing else.

import { post } from "../api/http";
import { base58 } from "./base58";
import { keep, kept } from "./keeping";
import type { TestKey } from "./keeping";
import { isOf } from "./network";
import { parts, withSignature } from "./transaction";
import { unable } from "./wallet";
import type { Connected, Offered } from "./wallet";

export const TEST_NAME = "Test wallet";

/** The test wallet; connecting makes it where there is none yet. */
export function testWallet(): Offered {
  return {
    id: "test",
    name: TEST_NAME,
    family: "solana",
    isTest: true,
    lacks: (network) =>
      network.local && isOf(network.network, "solana") ? null : "has LOCAL test money alone",
    connect: async () => connected((await kept()) ?? (await made())),
  };
}

async function made(): Promise<TestKey> {
  // Not extractable: a script that got in here could use it, but never carry it away.
  const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  const { privateKey, publicKey } = pair as CryptoKeyPair;
  const address = base58(new Uint8Array(await crypto.subtle.exportKey("raw", publicKey)));
  const key = { key: privateKey, address };
  await keep(key);
  return key;
}

function connected({ key, address }: TestKey): Connected {
  const sign = async (bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> =>
    new Uint8Array(await crypto.subtle.sign("Ed25519", key, bytes));
  return {
    family: "solana",
    address,
    name: TEST_NAME,
    signText: async (text) => base58(await sign(new TextEncoder().encode(text))),
    goTo: () => Promise.reject(unable(TEST_NAME)),
    signTyped: () => Promise.reject(unable(TEST_NAME)),
    signTransaction: async (_network, bytes) =>
      withSignature(bytes, address, await sign(parts(bytes).message)),
    addNetwork: () => Promise.reject(unable(TEST_NAME)),
    // Nobody but this page has it.
    watch: () => () => undefined,
  };
}

/** Whether this browser can make keys of this kind (Ed25519 in WebCrypto). */
export async function canTest(): Promise<boolean> {
  try {
    await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
    return true;
  } catch {
    return false; // An older browser: it is offered no test wallet.
  }
}

export interface Given {
  transaction: string;
  amount: string;
  asset: string;
}

/** Have the faucet of a LOCAL network give this address test money. */
export function fund(network: string, address: string): Promise<Given> {
  return post<Given>("/v1/local/faucet", { network, address });
}
