// Signing in with a wallet: a text of the server's, a signature, a session in a cookie.

import { post } from "../api/http";
import type { Connected } from "./wallet";

interface Challenge {
  message: string;
}

export interface SignedIn {
  account: string;
  wallet: string;
  asset: string;
  balance: string;
  expires_at_ms: number;
}

/** The text that this wallet is to sign; shown before it is signed. */
export async function challenge(wallet: Connected, network: string): Promise<string> {
  const asked = { address: wallet.address, chain: network };
  return (await post<Challenge>("/v1/sign-in/challenge", asked)).message;
}

/** Prove the wallet: this browser is signed in then. */
export function signIn(message: string, signature: string): Promise<SignedIn> {
  return post<SignedIn>("/v1/sign-in", { message, signature });
}

/** Let this wallet spend from the account that is signed in. */
export async function linkWallet(message: string, signature: string): Promise<string[]> {
  const linked = await post<{ wallets: string[] }>("/v1/wallets/link", { message, signature });
  return linked.wallets;
}
