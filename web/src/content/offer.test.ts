import { describe, expect, it } from "vitest";
import { offers, tierOf } from "./offer";

const item = (resource: string, amount: string) => ({
  resource,
  description: "one answer",
  accepts: [{ network: "solana:x", amount }],
});

describe("what is for sale", () => {
  it("is the tiers for people, the cheapest first", () => {
    const listed = {
      items: [
        item("http://localhost/content/premium", "250000"),
        item("http://localhost/premium/v1/chat/completions", "250000"),
        {
          ...item("http://localhost/content/basic", "10000"),
          tier: { maxTokens: 100, maxPromptTokens: 1000, model: "lab/tiny" },
        },
        { ...item("http://localhost/content/broken", "1"), accepts: [] },
      ],
    };
    expect(offers(listed).map((one) => one.tier)).toEqual(["basic", "premium"]);
    expect(offers(listed).map((one) => one.limits)).toEqual([
      { answer_tokens: 100, prompt_tokens: 1000, model: "lab/tiny" },
      null,
    ]);
  });

  it("is named by the address", () => {
    expect(tierOf("/content/premium")).toBe("premium");
    expect(tierOf("/content/premium/")).toBe("premium");
    expect(tierOf("/content/")).toBeNull();
    expect(tierOf("/content/a/b")).toBeNull();
  });
});
