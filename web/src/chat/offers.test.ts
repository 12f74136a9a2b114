import { describe, expect, it } from "vitest";
import type { Model, Pipeline, PoolNode } from "../api/shapes";
import { withReceipt, withUsage } from "./billed";
import { endingOf, hintOf, needsPayer } from "./figures";
import {
  measures,
  namesOf,
  nodesOf,
  pipelineMeasures,
  pipelinesOf,
  prices,
  shortName,
  stateOf,
  wayOf,
} from "./offers";
import { unknownFacts } from "./tree";

const RATE = { asset: "PRLX.local", version: 1, prompt: "4000000", completion: "4000000" };
const MODEL = { id: "a/m", rates: [RATE], nodes: 1, available: true } as Model;

function node(name: string, more: Partial<PoolNode> = {}): PoolNode {
  const unknown = { tokens_per_s: null, first_id_s: null, success_rate: null, samples: null };
  return {
    ...{ name, peer: name, state: "ready", reason: null, models: ["a/m"], model_states: [] },
    ...unknown,
    ...more,
  } as PoolNode;
}

describe("a model", () => {
  it("has its price in the asset that the person spends", () => {
    const dollars = { ...RATE, asset: "USDC.local", completion: "8000000" };
    const both = { ...MODEL, rates: [RATE, dollars] };
    expect(prices(both, "USDC.local")).toEqual([
      "4.00 in / 8.00 out USDC.local per million tokens",
    ]);
    expect(prices(both, null)).toHaveLength(2);
    expect(prices({ ...MODEL, rates: [] }, null)).toEqual(["price unknown"]);
    expect(prices({ ...MODEL, rates: [{ ...RATE, prompt: "0", completion: "0" }] }, null)).toEqual([
      "free",
    ]);
    expect(shortName("a/b/m")).toBe("m");
  });

  it("is available, or it is said why not", () => {
    expect(stateOf(MODEL, []).text).toBe("ready, on 1 node");
    const away = { ...MODEL, available: false };
    expect(stateOf(away, []).text).toContain("no node offers it");
    const states = [{ model: "a/m", state: "failed", reason: "idle, and no sign of life" }];
    expect(stateOf(away, [node("x", { model_states: states })]).text).toContain("no sign of life");
  });
});

describe("a node", () => {
  it("is offered while it is here, the quickest first", () => {
    const all = [
      node("gone", { state: "gone" }),
      node("other", { models: ["b"] }),
      node("slow", { tokens_per_s: 5 }),
      node("quick", { tokens_per_s: 50 }),
      node("joining", { state: "joining", tokens_per_s: 90 }),
    ];
    expect(nodesOf("a/m", all).map((one) => one.name)).toEqual(["quick", "slow", "joining"]);
  });

  it("has no figure that nobody measured", () => {
    for (const one of measures(node("x"))) expect(one.text).toContain("unknown");
    const told = measures(node("x", { success_rate: 0.999, samples: 64 }));
    expect(told[2]?.text).toBe("99 % succeeded");
  });
});

describe("a pipeline", () => {
  const ring = {
    ...{ id: "pipeline-1", model: "a/m", tokens_per_s: 22.6, first_id_s: null, served: 3 },
    ...{ failed: 1, stages: [{ peer: "12D3KooWone" }, { peer: "12D3KooWother" }] },
  } as Pipeline;

  it("is one place, chosen by all of its nodes and shown by their names in order", () => {
    expect(pipelinesOf("a/m", [ring, { ...ring, model: "b" }, { ...ring, stages: [] }])).toEqual([
      ring,
    ]);
    expect(wayOf(ring)).toBe("12D3KooWone 12D3KooWother");
    expect(namesOf(wayOf(ring), new Map([["12D3KooWone", "amber-heron"]]))).toBe(
      "amber-heron → …Wother",
    );
    expect(pipelineMeasures(ring).map((one) => one.text)).toEqual([
      "23 tokens/s",
      "first token unknown",
      "3 served, 1 failed",
    ]);
  });
});

describe("what an answer cost", () => {
  const names = new Map([["12D3A", "amber-heron"]]);

  it("is what its usage says, with the names that nodes have", () => {
    const usage = {
      ...{ prompt_tokens: 1, completion_tokens: 2, total_tokens: 3, cost: "12", asset: "USDC" },
      ...{ nodes: ["12D3A", "12D3B"], route: "pool" as const, migrations: 1 },
      ...{ hold: "h", receipt: "rcpt_x", credited: null, segments: [["12D3A"], ["12D3B"]] },
      prompt_tokens_details: { cached_tokens: 0 },
    };
    const facts = withUsage(unknownFacts("done"), usage, names);
    expect(facts.nodes).toEqual([
      { peer: "12D3A", name: "amber-heron" },
      { peer: "12D3B", name: null },
    ]);
    expect(facts.segments.map((one) => one[0]!.name)).toEqual(["amber-heron", null]);
    expect(facts.cost).toBe("12");
  });

  it("is what the receipt says where the stream was stopped", () => {
    const receipt = {
      ...{ id: "rcpt_x", model: "m", prompt_tokens: 1, cached_tokens: 0, completion_tokens: 2 },
      ...{ cost_micro: "12", route: "pool" as const, migrations: 0, rate: { asset: "USDC" } },
      segments: [{ node: "12D3B", stages: [{ node: "12D3A" }, { node: "12D3B" }] }],
    };
    const facts = withReceipt(unknownFacts("stopped"), receipt, names);
    expect(facts).toMatchObject({ state: "stopped", cost: "12", asset: "USDC" });
    expect(facts.nodes.map((one) => one.peer)).toEqual(["12D3A", "12D3B"]);
    expect(facts.segments).toEqual([facts.nodes]);
  });

  it("leads to the account where nobody paid, in words for people", () => {
    const facts = { ...unknownFacts("failed"), code: "payment_required", hint: "x402 v2 client" };
    expect(needsPayer(facts)).toBe(true);
    expect(hintOf(facts)).not.toContain("x402");
    const jargon = { ...facts, error: "LOCAL: play money, 36 prompt tokens" };
    expect(endingOf(jargon)).toContain("nobody is signed in");
    expect(endingOf({ ...jargon, code: "insufficient_credit" })).toBe(jargon.error);
    expect(needsPayer({ ...facts, code: "no_node" })).toBe(false);
  });
});
