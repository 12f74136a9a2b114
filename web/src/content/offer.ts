// What a tier sells, from the pool's own list of what is for sale (GET /.well-known/x402).

import type { Amount } from "../api/shapes";

interface Listed {
  items: {
    resource: string;
    description: string;
    accepts: { network: string; amount: Amount }[];
  }[];
}

export interface Offer {
  tier: string;
  /** One sentence of the pool's: length of answer and prompt, and the price. */
  description: string;
  price: Amount;
}

/** All tiers that are for sale, the cheapest first. */
export function offers(listed: Listed): Offer[] {
  const found = listed.items.flatMap((item) => {
    const tier = /\/content\/([a-z0-9-]+)$/.exec(item.resource)?.[1];
    const price = item.accepts[0]?.amount;
    return tier && price ? [{ tier, description: item.description, price }] : [];
  });
  return found.sort((one, other) => (BigInt(one.price) < BigInt(other.price) ? -1 : 1));
}

/** The tier of this address; null where it names none. */
export function tierOf(path: string): string | null {
  return /^\/content\/([a-z0-9-]+)\/?$/.exec(path)?.[1] ?? null;
}
