// Keys as GET /v1/keys lists them, and how they are found; pure.

import type { Amount } from "../api/shapes";

export interface Key {
  id: string;
  account: string;
  name: string;
  asset: string;
  prefix: string;
  limit: Amount | null;
  spent: Amount;
  expires_at_ms: number | null;
  created_at_ms: number;
  revoked: boolean;
}

/** Whether it opens anything now. */
export function standing(key: Key, now_ms: number): "live" | "revoked" | "ended" {
  if (key.revoked) return "revoked";
  return key.expires_at_ms !== null && key.expires_at_ms <= now_ms ? "ended" : "live";
}

/** Those that match what is typed; those that work first, the newest first. */
export function found(keys: Key[], sought: string): Key[] {
  const word = sought.trim().toLowerCase();
  return keys
    .filter((key) =>
      [key.name, key.account, key.prefix].some((one) => one.toLowerCase().includes(word)),
    )
    .sort(
      (one, other) =>
        Number(one.revoked) - Number(other.revoked) || other.created_at_ms - one.created_at_ms,
    );
}
