// What was bought here: one answer, by a session in a cookie that no script reads.

import { get, Refused, send } from "../api/http";
import { credentials } from "../api/key";
import type { Amount, Balance, Network } from "../api/shapes";

/** What a payment at /content/{tier} opens. */
export interface Opened {
  max_tokens: number;
  expires_at_ms: number;
}

/** Whether this browser has an answer of a tier that was paid for and not asked for yet. */
export async function hasAnswer(tier: string): Promise<boolean> {
  try {
    await send(`/content/${tier}`, { method: "HEAD" });
    return true;
  } catch (caught) {
    // 402: nothing was paid. 401: what was paid is spent or over, and its cookie is gone now.
    // 404: nothing of this name is sold, and nothing of it was bought here.
    if (caught instanceof Refused && [401, 402, 404].includes(caught.status)) return false;
    throw caught;
  }
}

/** What the person who is signed in here has; null where nobody is. */
export async function balance(): Promise<Balance | null> {
  try {
    return await get<Balance>("/v1/credits/balance", credentials());
  } catch (caught) {
    if (caught instanceof Refused && [401, 402, 403].includes(caught.status)) return null;
    throw caught;
  }
}

/** Whether a balance pays for one answer: it must be of what this pool is paid in. */
export function covers(funds: Balance | null, price: Amount, networks: Network[]): boolean {
  if (funds === null || !networks.some((one) => one.asset === funds.asset)) return false;
  return BigInt(funds.available) >= BigInt(price);
}
