// The kinds of entries in an account's history, as a person says them.

import { plain } from "../parts/amount";

export interface Entry {
  id: string;
  at_ms: number;
  kind: string;
  asset: string;
  amount: string;
  available: string;
  held: string;
  request: string | null;
  memo: string;
  network: string | null;
  transaction: string | null;
}

const MEANINGS: Record<string, string> = {
  hold: "Set aside for an answer",
  charge: "Charged for an answer",
  return: "Returned: not used",
  void: "Returned: nothing was delivered",
  expire: "Returned: not asked for in time",
  grant: "Granted",
  deposit: "Paid in",
  share: "Earned by serving",
  withdrawal: "Sent back to the wallet",
};

/** What an entry of this kind is; a kind that is not known here keeps its own word. */
export function meaning(kind: string): string {
  return MEANINGS[kind] ?? kind;
}

/** What an entry did to a column, with its sign: "+1.00", "−0.01"; nothing where it did nothing. */
export function change(micro: string, decimals: number): string {
  const value = BigInt(micro);
  return value === 0n ? "" : `${value > 0n ? "+" : ""}${plain(micro, 2, decimals)}`;
}
