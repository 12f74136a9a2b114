// The books in total, as GET /v1/console/money has them; amounts are strings of base units.

import type { Amount } from "../api/shapes";

export interface Money {
  assets: {
    asset: string;
    decimals: number;
    outstanding: Amount;
    held: Amount;
    operators: Amount;
    split: { operators_bp: number; treasury_bp: number; infrastructure_bp: number };
  }[];
  x402: {
    read_at_ms: number;
    claims: { network: string; state: string; claims: number; claimed: Amount; landed: Amount }[];
    payees: {
      network: string;
      pay_to: string;
      asset: string;
      onchain: Amount | null;
      mirror: Amount;
    }[];
  } | null;
}

/** How the books stand, to be compared with how they stood. */
export function stand(money: Money): string {
  return JSON.stringify([money.assets, money.x402?.claims ?? null]);
}

const BP_A_PERCENT = 100;

/** Hundredths of a percent as a person reads them: 8500 is "85 %". */
export function percent(bp: number): string {
  return `${bp / BP_A_PERCENT}\u00a0%`;
}
