import { describe, expect, it } from "vitest";
import {
  announced,
  answering,
  continuedOn,
  endingOf,
  figures,
  hintOf,
  rate,
  seconds,
  UNKNOWN,
} from "./figures";
import { Refused } from "../api/http";
import { unquoted, words } from "./quote";
import { unknownFacts } from "./tree";

describe("figures", () => {
  it("are unknown, with the reason, until somebody told them", () => {
    for (const one of figures(unknownFacts("cut"))) {
      expect(one.text).toBe(UNKNOWN);
      expect(one.title).not.toBe("");
    }
  });

  it("are exact where they are money", () => {
    const facts = { ...unknownFacts("done"), cost: "228", asset: "PRLX.local" };
    expect(figures(facts).find((one) => one.label === "cost")?.text).toBe("0.000228 PRLX.local");
  });

  it("have units", () => {
    expect(seconds(420)).toBe("0.42 s");
    expect(rate(3.25)).toMatch(/3\.[23] tokens\/s/);
    expect(rate(41.2)).toBe("41 tokens/s");
  });

  it("say where an answer went on, and nothing where it did not move", () => {
    const nodes = [
      { peer: "12D3A", name: "early-buzzard" },
      { peer: "12D3B", name: "amber-heron" },
    ];
    const facts = { ...unknownFacts("done"), nodes, route: "pool" as const, migrations: 1 };
    expect(continuedOn(facts)).toBe("continued on amber-heron");
    expect(figures(facts)[1]?.text).toBe("early-buzzard, then amber-heron");
    expect(continuedOn({ ...facts, migrations: 0 })).toBeNull();
    expect(announced(facts)).toContain("continued on amber-heron");
  });

  it("name a pipeline by its stages in order, and where it went on by the whole new way", () => {
    const [a, b, c] = ["a", "b", "c"].map((name) => ({ peer: `12D3${name}`, name }));
    const facts = {
      ...{ ...unknownFacts("done"), nodes: [a!, b!, c!], route: "pool" as const, migrations: 1 },
      segments: [
        [a!, b!],
        [c!, b!],
      ],
    };
    expect(figures(facts)[1]?.text).toBe("a → b, then c → b");
    expect(continuedOn(facts)).toBe("continued on c → b");
    // A stage that crashed is loaded again where it was: the way is the same, and was moved to.
    expect(
      continuedOn({
        ...facts,
        segments: [
          [a!, b!],
          [a!, b!],
        ],
      }),
    ).toBe("continued on a → b");
  });

  it("say who answers while it comes, and after a pause no more than who began", () => {
    const nodes = [
      { peer: "12D3A", name: "amber-heron" },
      { peer: "12D3Bxyzxyz", name: null },
    ];
    expect(answering(nodes, false)).toBe("answering: amber-heron → …xyzxyz");
    expect(answering(nodes.slice(0, 1), true)).toBe("↻ continued on amber-heron");
    expect(answering([], false)).toBeNull();
  });

  it("say how an answer ended that did not end by itself", () => {
    expect(endingOf({ ...unknownFacts("done"), finish: "stop" })).toBeNull();
    expect(endingOf({ ...unknownFacts("done"), finish: "length" })).toContain("longest");
    expect(endingOf(unknownFacts("stopped"))).toContain("You stopped");
    const over = { ...unknownFacts("failed"), code: "invalid_session", error: "not known here" };
    expect(`${endingOf(over)} ${hintOf(over)}`).toMatch(/Your session has ended\. sign in again/);
  });
});

describe("a quote", () => {
  const quote = { model: "m", prompt_tokens: 3, max_tokens: 10, context_length: 100 };

  it("is the most that it can cost", () => {
    const known = { ...quote, cost: "3800", asset: "USDC", payment: null };
    expect(words({ state: "known", quote: known }).text).toBe("at most 0.0038 USDC");
    expect(words({ state: "known", quote: { ...known, cost: "0" } }).text).toBe("free");
  });

  it("is unknown where nobody makes one, and a refusal where the prompt is too long", () => {
    const problem = { message: "no", type: "", code: "not_found", hint: "h" };
    expect(unquoted(new Refused(404, problem)).state).toBe("unknown");
    expect(unquoted(new Refused(400, problem)).state).toBe("refused");
    expect(unquoted(new Refused(429, problem)).state).toBe("unknown");
  });
});
