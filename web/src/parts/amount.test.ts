import { describe, expect, it } from "vitest";
import { microOf, money, plain } from "./amount";

describe("amounts", () => {
  it("are shown whole, to the last base unit", () => {
    expect(plain("5680")).toBe("0.00568");
    expect(plain("1")).toBe("0.000001");
    expect(plain("0")).toBe("0.00");
    expect(plain("1000000")).toBe("1.00");
    expect(plain("-3752")).toBe("−0.003752");
    expect(plain("1234567890123")).toBe("1,234,567.890123");
    expect(money("250000", "USDC")).toBe("0.25 USDC");
  });

  it("are never rounded, however large", () => {
    expect(plain("9007199254740993000001")).toBe("9,007,199,254,740,993.000001");
  });

  it("are read as they were typed, and nothing else is", () => {
    expect(microOf("0.25")).toBe("250000");
    expect(microOf(" 20 ")).toBe("20000000");
    expect(microOf("0.000001")).toBe("1");
    for (const wrong of ["", "1,5", "-1", "1e3", "0.0000001", ".5", "1.", "abc"]) {
      expect(() => microOf(wrong)).toThrow();
    }
  });
});
