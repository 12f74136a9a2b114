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
  /** EVM only: a signature, hexadecimal with 0x. */
  signTyped(network: Network, data: TypedData): Promise<string>;
  /** Solana only: the transaction with this wallet's signature in it. */
  signTransaction(
    network: Network,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>>;
}

/** A wallet that was found, not connected yet. */
export interface Offered {
  id: string;
  name: string;
  family: Family;
  /** Made in this page, for test money. */
  isTest: boolean;
  connect(): Promise<Connected>;
}

export type Cause = "rejected" | "wrong_network" | "failed";

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

/** The wallet could not do it. */
export function failed(name: string, error: unknown): WalletError {
  const told = error instanceof Error ? error.message : String(error);
  return new WalletError(
    "failed",
    `${name} did not sign: ${told.slice(0, 200)}`,
    "see what the wallet says, or choose another one",
  );
}

/** This wallet is of the other family. */
export function unable(name: string): WalletError {
  return new WalletError(
    "failed",
    `${name} cannot sign this kind of payment.`,
    "choose a wallet of the network that is paid on",
  );
}
