// A wallet as the pages use it, whatever brought it: an extension, or the test wallet.

import type { Network } from "../api/shapes";

export type Family = "evm" | "solana";

/** EIP-712, as eth_signTypedData_v4 takes it. */
export interface TypedData {
  domain: Record<string, unknown>;
  types: Record<string, { name: string; type: string }[]>;
  primaryType: string;
  message: Record<string, unknown>;
}

/** A wallet whose owner has let us see one address. */
export interface Connected {
  family: Family;
  address: string;
  name: string;
  /** Sign a text for signing in: hexadecimal with 0x of an EVM wallet, base58 of a Solana one. */
  signText(text: string): Promise<string>;
  /** EVM only: have the wallet go to this network; it signs for no other. */
  goTo(network: Network): Promise<void>;
  /** EVM only: a signature, hexadecimal with 0x. */
  signTyped(data: TypedData): Promise<string>;
  /** Solana only: the transaction with this wallet's signature in it. */
  signTransaction(
    network: Network,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>>;
  /** EVM only: tell the wallet of a network that it does not know. */
  addNetwork(network: Network): Promise<void>;
  /** Hear that its owner chose another account, or that it shows us none any more (null). */
  watch(moved: (address: string | null) => void): () => void;
}

/** A wallet that was found, not connected yet. */
export interface Offered {
  id: string;
  name: string;
  family: Family;
  /** Made in this page, for test money. */
  isTest: boolean;
  /** Why it cannot pay on this network, to be read after its name; null where it can. */
  lacks(network: Network): string | null;
  connect(): Promise<Connected>;
}

export type Cause = "rejected" | "wrong_network" | "unknown_network" | "moved" | "failed";

/** What went wrong at the wallet, in words for its owner; nothing was sent or paid. */
export class WalletError extends Error {
  readonly why: Cause;
  readonly hint: string;

  constructor(why: Cause, message: string, hint: string) {
    super(message);
    this.name = "WalletError";
    this.why = why;
    this.hint = hint;
  }
}

/** The person said no in the wallet. */
export function rejected(name: string): WalletError {
  return new WalletError(
    "rejected",
    `You declined in ${name}. Nothing was signed or paid.`,
    "try again, and confirm in the wallet",
  );
}

const TOLD_CHARS = 200;
/** A wallet's own words about a fault; it may be anybody's code. */

/** The wallet could not do it. */
export function failed(name: string, error: unknown): WalletError {
  const told = (error as { message?: unknown } | null)?.message ?? error;
  const words = typeof told === "string" && told !== "" ? told : "it does not say why";
  return new WalletError(
    "failed",
    `${name} did not sign: ${words.slice(0, TOLD_CHARS)}`,
    "see what the wallet says, or choose another one",
  );
}

/** What came back is no signature of what was asked; it is not sent. */
export function garbled(name: string, what: string): WalletError {
  return new WalletError(
    "failed",
    `${name} gave back ${what}. Nothing was sent or paid.`,
    "try again, or choose another wallet",
  );
}

/** Its owner chose another account, or let go of this page, while something waited for them. */
export function moved(name: string, address: string | null): WalletError {
  const what = address === null ? "was disconnected" : `went to another account, ${address}`;
  return new WalletError(
    "moved",
    `${name} ${what}. Nothing was signed or paid.`,
    "choose the wallet again to go on with the account that it has now",
  );
}

/** This wallet is of the other family. */
export function unable(name: string): WalletError {
  return new WalletError(
    "failed",
    `${name} cannot sign this.`,
    "choose a wallet of the network that is paid on",
  );
}
