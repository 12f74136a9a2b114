// What the test wallet has of a network's play money, as its chain said when a payment was prepared.

import type { Prepared } from "./payment";

const had = $state<Record<string, string>>({});

/** What it has on a network, in base units; null where no payment was made ready there yet. */
export function holding(network: string): string | null {
  return had[network] ?? null;
}

/** The chain said it just now. */
export function holds({ holds: micro }: Prepared, network: string): void {
  had[network] = micro;
}

/** A payment landed: so much less. */
export function spent({ holds: micro, accepted }: Prepared, network: string): void {
  had[network] = left(micro, accepted.amount);
}

/** What is left of `has` after `amount`, in base units. */
export function left(has: string, amount: unknown): string {
  return (BigInt(has) - BigInt(String(amount))).toString();
}
