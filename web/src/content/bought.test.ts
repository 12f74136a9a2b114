import { describe, expect, it } from "vitest";
import type { Network } from "../api/shapes";
import { covers } from "./bought";

const networks = [{ asset: "USDC.local" }] as Network[];
const has = (available: string, asset = "USDC.local") => ({
  account: "a",
  asset,
  decimals: 6,
  available,
  held: "0",
});

describe("a balance", () => {
  it("pays for an answer where it has the price, in what is paid here", () => {
    expect(covers(has("250000"), "250000", networks)).toBe(true);
    expect(covers(has("249999"), "250000", networks)).toBe(false);
    expect(covers(has("250000", "credits"), "250000", networks)).toBe(false);
    expect(covers(null, "250000", networks)).toBe(false);
  });
});
