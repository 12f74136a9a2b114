import { describe, expect, it } from "vitest";
import { found, standing } from "./keys";
import type { Key } from "./keys";
import { percent } from "./money";

function key(name: string, more: Partial<Key> = {}): Key {
  const key = { id: name, account: "acct_1", name, asset: "PRLX.local", prefix: `sk-${name}` };
  return {
    ...key,
    limit: null,
    spent: "0",
    expires_at_ms: null,
    created_at_ms: 1,
    revoked: false,
    ...more,
  };
}

describe("keys", () => {
  it("work until they are revoked or end", () => {
    expect(standing(key("a"), 10)).toBe("live");
    expect(standing(key("a", { expires_at_ms: 10 }), 10)).toBe("ended");
    expect(standing(key("a", { revoked: true }), 10)).toBe("revoked");
  });

  it("are listed with those that work first, and found by name, account or prefix", () => {
    const all = [
      key("old"),
      key("dead", { revoked: true, created_at_ms: 9 }),
      key("new", { created_at_ms: 5 }),
    ];
    expect(found(all, "").map((one) => one.name)).toEqual(["new", "old", "dead"]);
    expect(found(all, " SK-N ").map((one) => one.name)).toEqual(["new"]);
    expect(found(all, "nothing")).toEqual([]);
  });

  it("of a split say percent, whole where it is", () => {
    expect([percent(8500), percent(1250)]).toEqual(["85\u00a0%", "12.5\u00a0%"]);
  });
});
