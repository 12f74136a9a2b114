import { describe, expect, it } from "vitest";
import type { Pipeline, PoolNode } from "../api/shapes";
import { coming, EMPTY, group, lacking, next, sorted, told, unsaid } from "./pool";

function node(name: string, state = "ready"): PoolNode {
  return { name, peer: `peer-${name}`, state } as PoolNode;
}

const RING = { id: "p1" } as Pipeline;

describe("the pool", () => {
  it("is what the last snapshot said, whatever stood before", () => {
    const before = { nodes: [node("old")], pipelines: [RING] };
    const event = { type: "snapshot" as const, nodes: [node("a")], removed: [] };
    expect(next(before, event)).toEqual({ nodes: [node("a")], pipelines: [] });
  });

  it("takes changes whole, and drops who is shown no more", () => {
    let pool = next(EMPTY, { type: "snapshot", nodes: [node("a"), node("b")], removed: [] });
    pool = next(pool, { type: "change", nodes: [node("a", "busy")], removed: ["peer-b"] });
    expect(pool.nodes).toEqual([node("a", "busy")]);
  });

  it("keeps pipelines where a change says nothing of them", () => {
    const before = { nodes: [], pipelines: [RING] };
    const event = { type: "change" as const, nodes: [], removed: [] };
    expect(next(before, event).pipelines).toEqual([RING]);
    expect(next(before, { ...event, pipelines: [] }).pipelines).toEqual([]);
  });

  it("is shown with who serves first, each group by name", () => {
    const states = [node("z"), node("c", "gone"), node("b", "joining"), node("a", "busy")];
    expect(sorted(states).map((one) => one.name)).toEqual(["a", "z", "b", "c"]);
    expect(group(node("x", "a new state"))).toBe("joining");
  });

  it("tells how far a node is that joins, and makes up no percentage", () => {
    const loads = { ...node("a", "joining"), phase: "loading" as const, percent: 42 };
    expect(coming(loads)).toEqual({ words: "loads its model", percent: 42 });
    expect(coming({ ...loads, phase: "proving", percent: null })?.percent).toBe(null);
    expect(coming({ ...loads, percent: 0 })?.percent).toBe(0);
    expect(coming({ ...loads, phase: "dreaming" as never })?.words).toBe("dreaming");
    expect(coming({ ...loads, phase: null })).toBe(null);
    // What it said on its way in is nothing to show of one that is here.
    expect(coming({ ...loads, state: "ready" })).toBe(null);
    expect(coming(node("older", "joining"))).toBe(null);
  });

  it("tells in plain words that a connection ended, and keeps the detail for who wants it", () => {
    const cause = "the connection closed without a goodbye (1005)";
    expect(told(cause)).toEqual({ words: "its connection ended", detail: cause });
    expect(told("the node left: done")).toEqual({
      words: "the node left: done",
      detail: undefined,
    });
  });

  it("tells a reason once: of a node, and not of its models again", () => {
    const measuring = { model: "m", state: "measuring", reason: "is compared" };
    const alone = { ...node("a", "measuring"), reason: "is compared", model_states: [measuring] };
    expect(lacking(alone)).toEqual([]);
    const ready = { model: "n", state: "ready", reason: null };
    const said = "1 of 2 models measuring: is compared";
    const two = { ...node("a"), reason: said, model_states: [measuring, ready] };
    expect(lacking(two)).toEqual([{ ...measuring, reason: null }]);
    expect(lacking({ ...two, reason: null })).toEqual([measuring]);
    expect(unsaid(measuring, "something else")).toEqual(measuring);
  });
});
