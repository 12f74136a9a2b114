import { describe, expect, it } from "vitest";
import { change, lines, meaning } from "./entries";
import type { Entry } from "./entries";

describe("an entry of the history", () => {
  it("says what it did to a column, and nothing where it did nothing", () => {
    expect(change("1000000", 6)).toBe("+1.00");
    expect(change("-3752", 6)).toBe("−0.003752");
    expect(change("0", 6)).toBe("");
  });

  it("keeps its own word where its kind is new here", () => {
    expect(meaning("hold")).toBe("Set aside for an answer");
    expect(meaning("tomorrow")).toBe("tomorrow");
  });
});

let made = 0;
function entry(kind: string, request: string | null, at_ms: number, more: object = {}): Entry {
  const one = { id: `e${++made}`, at_ms, kind, asset: "USDC", amount: "5", available: "0" };
  const rest = { held: "0", request, memo: "", network: null, transaction: null };
  return { ...one, ...rest, ...more };
}

const BOUGHT = [
  entry("return", "r2", 30, { available: "2", held: "-2", amount: "2" }),
  entry("charge", "r2", 30, { held: "-3", amount: "3" }),
  entry("hold", "r2", 20, { available: "-5", held: "5" }),
  entry("void", "s1", 20, { available: "5", held: "-5", memo: "spent by r2" }),
  entry("hold", "s1", 10, { available: "-5", held: "5" }),
];

describe("the lines of the history", () => {
  it("make one line of one bought answer, in whatever order its entries come", () => {
    for (const entries of [BOUGHT, [...BOUGHT].reverse()]) {
      const found = lines([...entries, entry("deposit", null, 5, { available: "5" })]);
      expect(found.map((one) => one.what)).toEqual(["Charged for an answer", "Paid in"]);
      expect(found[0]).toMatchObject({ available: "-3", held: "0", main: { request: "r2" } });
      expect(found[0]!.parts).toHaveLength(5);
      expect(found[1]!.parts).toHaveLength(1);
    }
  });

  it("say the same cost while the hold is on a page that is not loaded", () => {
    const [found] = lines(BOUGHT.slice(0, 2));
    expect(found).toMatchObject({ what: "Charged for an answer", available: "-3" });
    // The charge itself is over the border: nothing false is said of it.
    expect(lines(BOUGHT.slice(0, 1))[0]!.what).toBe("Returned: not used");
  });

  it("say held of an answer that is under way, also of one that was bought", () => {
    const alone = lines([BOUGHT[2]!]);
    for (const found of [alone, lines(BOUGHT.slice(2)), lines(BOUGHT.slice(2, 4))])
      expect(found.map((one) => one.what)).toEqual(["Held"]);
    expect(alone[0]).toMatchObject({ available: "-5", held: "5" });
    expect(lines(BOUGHT.slice(2))[0]).toMatchObject({ available: "-5", held: "5" });
  });

  it("say that nothing was charged where a hold came back whole", () => {
    const found = lines([entry("void", "r3", 2), entry("hold", "r3", 1)]);
    expect(found.map((one) => one.what)).toEqual(["Nothing was charged"]);
  });

  it("keep what others earned or paid apart, also where it names a request", () => {
    const found = lines([entry("share", "r4", 2), entry("grant", "r4", 2)]);
    expect(found.map((one) => one.what)).toEqual(["Earned by serving", "Granted"]);
  });
});
