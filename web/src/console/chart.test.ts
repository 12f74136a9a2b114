import { describe, expect, it } from "vitest";
import { columns, gapped, VIEWS, words } from "./chart";
import type { History, Point } from "./chart";

function point(at_s: number, tokens: number | null = 1): Point {
  return [at_s * 1000, 0.5, tokens, null, 0, 2];
}

const HISTORY: History = { step_s: 10, points: [point(10), point(20, null), point(60, 4)] };

describe("the chart", () => {
  it("bridges no gap: where points are missing stands one of nothing", () => {
    expect(gapped(HISTORY).map((one) => one[0])).toEqual([10_000, 20_000, 30_000, 60_000]);
    expect(gapped({ step_s: 10, points: [point(10), point(21)] })).toHaveLength(2);
  });

  it("draws what is unknown as a gap, never as 0", () => {
    expect(columns(HISTORY, VIEWS[0]!)[1]).toEqual([1, null, null, 4]);
  });

  it("says in words what it shows, and what nobody measured", () => {
    expect(words(HISTORY, VIEWS[0]!)).toContain("Tokens/s: 4 at last, at most 4");
    expect(words(HISTORY, VIEWS[1]!)).toContain("First token, p50, in s: unknown");
    expect(words({ step_s: 10, points: [] }, VIEWS[0]!)).toContain("Nothing yet");
  });
});
