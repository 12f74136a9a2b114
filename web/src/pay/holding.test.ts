import { expect, it } from "vitest";
import { holding, holds, spent } from "./holding.svelte";
import type { Prepared } from "./payment";

it("knows what the test wallet has left once its chain said it, less what it paid", () => {
  const prepared = { holds: "20000000", accepted: { amount: "250000" } } as unknown as Prepared;
  expect(holding("solana:x")).toBeNull();
  holds(prepared, "solana:x");
  expect(holding("solana:x")).toBe("20000000");
  spent(prepared, "solana:x");
  expect([holding("solana:x"), holding("solana:y")]).toEqual(["19750000", null]);
});
