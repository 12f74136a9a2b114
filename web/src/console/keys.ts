// Keys as GET /v1/keys lists them, and how they are found; pure.

import type { ListedKey } from "../parts/KeyTable.svelte";

export interface Key extends ListedKey {
  account: string;
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
