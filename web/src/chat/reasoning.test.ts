import { describe, expect, it } from "vitest";
import { parts, withoutReasoning } from "./reasoning";

describe("reasoning", () => {
  it("is told apart from the answer", () => {
    expect(parts("<think>\nhm\n</think>\n\nYes.")).toEqual({
      reasoning: "hm",
      answer: "Yes.",
      thinking: false,
    });
    expect(parts("<think>hm").thinking).toBe(true);
    expect(parts("Yes.")).toEqual({ reasoning: null, answer: "Yes.", thinking: false });
  });

  it("shows no beginning of the tag", () => {
    for (const beginning of ["<", "<th", "<think"]) expect(parts(beginning).answer).toBe("");
    expect(parts("<b").answer).toBe("<b");
  });

  it("is only what stands at the beginning", () => {
    expect(parts("Use <think>x</think>.").reasoning).toBeNull();
  });

  it("does not go back to the model", () => {
    expect(withoutReasoning("<think>hm</think>Yes.")).toBe("Yes.");
    expect(withoutReasoning("<think>cut off")).toBe("<think>cut off");
  });
});
