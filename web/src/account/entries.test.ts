import { describe, expect, it } from "vitest";
import { change, meaning } from "./entries";

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
