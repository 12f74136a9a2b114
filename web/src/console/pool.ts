// The pool as the nodes' stream tells it (docs/api.md, "Nodes"): a snapshot, then changes; pure.

import type { ModelState, Pipeline, PoolNode } from "../api/shapes";

export interface PoolEvent {
  type: "snapshot" | "change";
  nodes: PoolNode[];
  removed: string[];
  /** Absent in a change where no pipeline changed. */
  pipelines?: Pipeline[];
}

export interface Pool {
  nodes: PoolNode[];
  pipelines: Pipeline[];
}

/** What GET /v1/nodes tells. */
export interface Listed {
  data: PoolNode[];
  pipelines: Pipeline[];
}

/** A list as the event that the stream would begin with. */
export function snapshot({ data, pipelines }: Listed): PoolEvent {
  return { type: "snapshot", nodes: data, removed: [], pipelines };
}

export const EMPTY: Pool = { nodes: [], pipelines: [] };

/** The pool after this event. */
export function next(pool: Pool, event: PoolEvent): Pool {
  if (event.type === "snapshot") {
    return { nodes: event.nodes, pipelines: event.pipelines ?? [] };
  }
  const gone = new Set([...event.removed, ...event.nodes.map((node) => node.peer)]);
  return {
    nodes: [...pool.nodes.filter((node) => !gone.has(node.peer)), ...event.nodes],
    pipelines: event.pipelines ?? pool.pipelines,
  };
}

const LIVE = new Set(["ready", "busy", "suspect", "draining"]);
const GONE = new Set(["gone", "refused"]);

/** How a person sorts states: who serves, who does not yet, who is gone. */
export function group(node: PoolNode): "live" | "joining" | "gone" {
  if (GONE.has(node.state)) return "gone";
  return LIVE.has(node.state) ? "live" : "joining";
}

const PHASES: Record<string, string> = {
  checking: "reads its model’s file",
  loading: "loads its model",
  proving: "tries its engine",
};

/** How far a node is that is on its way in, by its own word; null where it says nothing of it. */
export function coming(node: PoolNode): { words: string; percent: number | null } | null {
  if (node.state !== "joining" || !node.phase) return null;
  // A newer coordinator may know of more phases than this page.
  return { words: PHASES[node.phase] ?? node.phase, percent: node.percent };
}

const ORDER = { live: 0, joining: 1, gone: 2 };

/** Live nodes first, each group by name, so that no row moves while one reads. */
export function sorted(nodes: PoolNode[]): PoolNode[] {
  return [...nodes].sort(
    (one, other) => ORDER[group(one)] - ORDER[group(other)] || (one.name < other.name ? -1 : 1),
  );
}

/** What a connection that broke leaves in the coordinator's words, with the code of its end. */
const BROKEN = /^the connection closed without a goodbye \(.*\)$/;

/** A reason as a person reads it; `detail` is the coordinator's own words where they are others. */
export function told(reason: string): { words: string; detail: string | undefined } {
  return BROKEN.test(reason)
    ? { words: "its connection ended", detail: reason }
    : { words: reason, detail: undefined };
}

/** The models of a node that are not ready, without a reason that the node's own already tells. */
export function lacking(node: PoolNode): ModelState[] {
  const said = node.reason;
  const out = node.model_states.filter((one) => one.state !== "ready");
  // Its only model is what the node's own state and reason are of.
  const isAll = node.model_states.length === 1 && out[0]?.state === node.state;
  return isAll && out[0]?.reason === said ? [] : out.map((one) => unsaid(one, said));
}

/** The same without its reason, where `said` has told it. */
export function unsaid(one: ModelState, said: string | null): ModelState {
  return one.reason && said?.includes(one.reason) ? { ...one, reason: null } : one;
}
