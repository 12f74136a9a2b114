// Paying by x402: the server prepares, the person reads it in words, the wallet signs, the page sends.

import { post, Refused, send } from "../api/http";
import { credentials } from "../api/key";
import type { Network } from "../api/shapes";
import { base64, base64Json, bytesOf } from "./base64";
import type { Connected, TypedData } from "./wallet";

const SETTLING_MS = 60_000;

export type Buys = { topup_usd: string } | { tier: string };

export interface Prepared {
  x402_version: number;
  accepted: Record<string, unknown>;
  resource: unknown;
  sign:
    | { kind: "typed_data"; typed_data: TypedData }
    | { kind: "solana_transaction"; transaction: string };
  /** What is signed, in sentences. */
  words: string[];
  expires_at_ms: number;
  /** Who gets the credits; null where the paying wallet's own account does, or where it is none. */
  account: string | null;
  /** What the wallet has of the token before it pays, in base units. */
  holds: string;
  request: { method: string; path: string };
}

/** Waits for one thing that a wallet is asked; each by itself, so that who stops is asked no more. */
export type Wait = <T>(asked: Promise<T>) => Promise<T>;

export interface Paid<T> {
  body: T;
  transaction: string | null;
  network: string | null;
}

/** Have the server prepare a payment; nothing moves. */
export function prepare(network: string, address: string, buys: Buys): Promise<Prepared> {
  const headers = "topup_usd" in buys ? credentials() : {};
  return post<Prepared>("/v1/x402/prepare", { network, address, buys }, headers);
}

/** The value of PAYMENT-SIGNATURE, once the wallet has signed what was prepared. */
export async function signed(
  wallet: Connected,
  network: Network,
  prepared: Prepared,
  wait: Wait = (asked) => asked,
): Promise<string> {
  const { sign, accepted, resource } = prepared;
  let payload: Record<string, unknown>;
  if (sign.kind === "typed_data") {
    await wait(wallet.goTo(network));
    const signature = await wait(wallet.signTyped(sign.typed_data));
    payload = { signature, authorization: authorization(sign.typed_data.message) };
  } else {
    const bytes = bytesOf(sign.transaction);
    const transaction = await wait(wallet.signTransaction(network, bytes));
    payload = { transaction: base64(transaction) };
  }
  return base64Json({ x402Version: prepared.x402_version, resource, accepted, payload });
}

/** The message of EIP-3009 as x402 sends it: numbers as text. */
function authorization(message: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(Object.entries(message).map(([name, value]) => [name, String(value)]));
}

const READING_MS = 20_000;
const LIFE_LIMIT_MS = 120_000;

/**
 * How long what was prepared can be signed. The clock of this machine may be wrong: so there is
 * always time to read it, and never more than the server gives on any network.
 */
export function life_ms(prepared: Prepared, now_ms = Date.now()): number {
  return Math.min(Math.max(prepared.expires_at_ms - now_ms, READING_MS), LIFE_LIMIT_MS);
}

/** The time that is left to sign, in words. */
export function leftText(left_ms: number): string {
  if (left_ms <= 0) return "Its time is over: it is made ready again before you sign it.";
  const left_s = Math.ceil(left_ms / 1000);
  const seconds = String(left_s % 60).padStart(2, "0");
  return `Ready for ${Math.floor(left_s / 60)}:${seconds} more; after that it is made ready again.`;
}

/** What of a purchase is not told here: the same payment asks again, and never pays twice. */
const UNTOLD = new Set(["payment_pending", "offline"]);

/** Whether a payment that ended so may have landed: only the same one may be sent again. */
export function isUntold(error: unknown): boolean {
  if (error instanceof Refused) return UNTOLD.has(error.code) || error.code === "unknown";
  // Cut off while the answer was read, or not answered in time.
  return error instanceof TypeError || error instanceof DOMException;
}

/** Credits go to the account of the key that was pasted here; an answer is for this browser. */
function payer({ request }: Prepared): Record<string, string> {
  return request.method === "POST" ? credentials() : {};
}

/** Send what was signed and read what it bought. */
export async function pay<T>(prepared: Prepared, signature: string): Promise<Paid<T>> {
  const { method, path } = prepared.request;
  const response = await send(path, {
    method,
    headers: { ...payer(prepared), "payment-signature": signature, accept: "application/json" },
    // Settling waits for the chain; the server gives up after 20 s itself and says so.
    signal: AbortSignal.timeout(SETTLING_MS),
  });
  const told = response.headers.get("payment-response");
  const settled = told ? (JSON.parse(atob(told)) as Record<string, unknown>) : {};
  return {
    body: (await response.json()) as T,
    transaction: text(settled.transaction),
    network: text(settled.network),
  };
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
