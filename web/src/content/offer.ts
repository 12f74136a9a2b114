// What a tier sells, from the pool's own list of what is for sale (GET /.well-known/x402).

import type { Amount } from "../api/shapes";

interface Listed {
  items: {
    resource: string;
    description: string;
    accepts: { network: string; amount: Amount }[];
    tier?: { maxTokens: number; maxPromptTokens: number; model: string | null };
  }[];
}

export interface Offer {
  tier: string;
  /** One sentence of the pool's: length of answer and prompt, and the price. */
  description: string;
  price: Amount;
  /** The same as numbers, and the model that answers; null of a server that tells none. */
  limits: { answer_tokens: number; prompt_tokens: number; model: string | null } | null;
}

/** All tiers that are for sale, the cheapest first. */
export function offers(listed: Listed): Offer[] {
  const found = listed.items.flatMap((item) => {
    const tier = /\/content\/([a-z0-9-]+)$/.exec(item.resource)?.[1];
    const price = item.accepts[0]?.amount;
    if (!tier || !price) return [];
    const told = item.tier;
    const limits = told
      ? {
          answer_tokens: told.maxTokens,
          prompt_tokens: told.maxPromptTokens,
          model: told.model,
        }
      : null;
    return [{ tier, description: item.description, price, limits }];
  });
  return found.sort((one, other) => (BigInt(one.price) < BigInt(other.price) ? -1 : 1));
}

/** The tier of this address; null where it names none. */
export function tierOf(path: string): string | null {
  return /^\/content\/([a-z0-9-]+)\/?$/.exec(path)?.[1] ?? null;
}
