import { describe, expect, it } from "vitest";
import type { Model, Setup } from "../api/shapes";
import { body, changes, counted, draftOf, faults, newTier, ratesOf } from "./plan";

const TIER = {
  asset: "USDC.local",
  max_tokens: 100,
  max_prompt_tokens: 1000,
  model: null,
  temperature: null,
};
const SETUP: Setup = {
  model: "a/one",
  models: ["a/one", "a/two"],
  nodes_wanted: 2,
  nodes_joined: 1,
  missing: [],
  paid: true,
  private: false,
  tiers: [
    { ...TIER, name: "basic", price: "10000" },
    { ...TIER, name: "premium", price: "1234000000" },
  ],
  rates: [{ asset: "PRLX.local", version: 1, prompt: "4000000", completion: "4000000" }],
  next_start: [],
  next_tiers: null,
  join: null,
  peer: "12D3KooW",
};
const MODELS = [
  { id: "a/one", rates: SETUP.rates },
  { id: "a/two", rates: [{ asset: "PRLX.local", version: 3, prompt: "9000000", completion: "1" }] },
] as Model[];

function draft() {
  return draftOf(SETUP, MODELS);
}

describe("a set-up that nobody touched", () => {
  it("changes nothing and sends neither rates nor tiers", () => {
    expect(changes(draft(), draft(), true)).toEqual([]);
    expect(body(draft(), draft())).toEqual({ model: "a/one", nodes: 2, private: false });
  });

  it("has no faults, and large prices stay as they are", () => {
    expect(faults(draft())).toEqual([]);
    expect(draft().tiers[1]?.price).toBe("1234.00");
  });
});

describe("a set-up that was changed", () => {
  it("says of a tier when it holds, and sends all tiers in base units", () => {
    const wanted = draft();
    wanted.tiers[0]!.price = "0.02";
    const [change, ...rest] = changes(wanted, draft(), true);
    expect(rest).toEqual([]);
    expect(change).toMatchObject({ what: "Tier basic", when: "at once" });
    // Who takes no payments yet sells nothing before the start that does.
    expect(changes(wanted, draft(), false)[0]).toMatchObject({ when: "from the next start on" });
    expect(body(wanted, draft()).tiers?.map((tier) => tier.price)).toEqual(["20000", "1234000000"]);
  });

  it("sends a rate that changed, at once, and no other", () => {
    const wanted = draft();
    wanted.rates[0]!.prompt = "5";
    expect(changes(wanted, draft(), true).map((one) => one.when)).toEqual(["at once"]);
    const rate = { asset: "PRLX.local", prompt: "5000000", completion: "4000000" };
    expect(body(wanted, draft()).rates).toEqual([rate]);
  });

  it("takes 4 and 4.00 for the same rate", () => {
    const wanted = draft();
    wanted.rates[0]!.prompt = "4";
    expect(changes(wanted, draft(), true)).toEqual([]);
  });

  it("of a private pool has neither rates nor tiers, whatever was typed there", () => {
    const wanted = {
      ...draft(),
      private: true,
      rates: [{ asset: "X", prompt: "no", completion: "" }],
    };
    expect(faults(wanted)).toEqual([]);
    expect(body(wanted, draft())).toEqual({ model: "a/one", nodes: 2, private: true });
    expect(changes(wanted, draft(), true).map((one) => one.what)).toEqual(["Kind of pool"]);
  });

  it("shows the rates of the model that is chosen", () => {
    expect(ratesOf("a/two", SETUP, MODELS)[0]).toMatchObject({
      prompt: "9.00",
      completion: "0.000001",
    });
    expect(ratesOf("a/none", SETUP, MODELS)).toEqual([]);
  });
});

describe("tiers that were chosen and are not sold yet", () => {
  const waiting = { ...TIER, name: "gold", price: "70000" };
  const chosen = { ...SETUP, next_start: ["the tiers gold"], next_tiers: [waiting] };

  it("are shown, stay while nobody touches them, and are what a change is told against", () => {
    const now = draftOf(chosen, MODELS);
    expect(now.tiers.map((tier) => tier.name)).toEqual(["gold"]);
    expect(body({ ...now, nodes: "3" }, now).tiers).toBeUndefined();
    const wanted = draftOf(chosen, MODELS);
    wanted.tiers[0]!.price = "0.08";
    expect(changes(wanted, now, false)[0]).toMatchObject({
      what: "Tier gold",
      from: expect.stringMatching(/^0\.07/),
    });
    expect(body(wanted, now).tiers?.map((tier) => tier.price)).toEqual(["80000"]);
  });
});

describe("faults", () => {
  it("name each thing that the server would refuse", () => {
    const wanted = draft();
    wanted.nodes = "0";
    wanted.tiers[0]!.name = "Basic!";
    wanted.tiers[1]!.price = "0";
    wanted.tiers.push({ ...newTier(wanted.tiers), name: "premium", max_tokens: "1e9" });
    expect(faults(wanted)).toHaveLength(5);
  });

  it("a new tier has none, and a name of its own", () => {
    const wanted = draft();
    for (let count = 0; count < 3; count += 1) wanted.tiers.push(newTier(wanted.tiers));
    expect(faults(wanted)).toEqual([]);
  });
});

describe("nodes that are ready", () => {
  it("are counted against those asked for, and may be more", () => {
    expect(counted(0, 1)).toBe("0 of 1 node ready");
    expect(counted(2, 2)).toBe("2 of 2 nodes ready");
    expect(counted(2, 1)).toBe("2 nodes ready, 1 asked for");
  });
});
