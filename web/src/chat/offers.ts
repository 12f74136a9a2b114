// Models and nodes in words, for those who choose one; pure.
import type { Model, Pipeline, PoolNode } from "../api/shapes";
import { plain } from "../parts/amount";
import { peersOf, WAY } from "./settings";

/** "SmolLM2-135M-Instruct" of "HuggingFaceTB/SmolLM2-135M-Instruct". */
export function shortName(id: string): string {
  return id.split("/").at(-1) ?? id;
}

/** What a million tokens cost, in each asset; one figure where prompt and answer cost the same. */
export function prices(model: Model, asset: string | null): string[] {
  const own = model.rates.filter((one) => one.asset === asset);
  const told = own.length > 0 ? own : model.rates;
  if (told.length === 0) return ["price unknown"];
  return told.map(({ prompt, completion, asset }) => {
    if (BigInt(prompt) === 0n && BigInt(completion) === 0n) return "free";
    if (prompt === completion) return `${plain(prompt)} ${asset} per million tokens`;
    return `${plain(prompt)} in / ${plain(completion)} out ${asset} per million tokens`;
  });
}

/** Whether a prompt would be served now, or why not. */
export function stateOf(model: Model, nodes: PoolNode[]): { good: boolean; text: string } {
  if (model.available) {
    const count = model.nodes;
    if (count === 0) return { good: true, text: "ready, on the pool's own engine" };
    return { good: true, text: `ready, on ${count} ${count === 1 ? "node" : "nodes"}` };
  }
  const reasons = nodes.flatMap((node) =>
    node.model_states.filter((one) => one.model === model.id).map((one) => ({ node, one })),
  );
  const told = reasons.find(({ one }) => one.reason !== null) ?? reasons[0];
  if (!told) return { good: false, text: "not available: no node offers it now" };
  const { node, one } = told;
  return { good: false, text: `not available: ${node.name} is ${one.reason ?? one.state}` };
}

const SERVING = new Set(["ready", "busy"]);

/** Nodes that hold this model or part of it, those that serve now first, quickest first. */
export function nodesOf(model: string, nodes: PoolNode[]): PoolNode[] {
  return nodes
    .filter((one) => one.models.includes(model) && !["gone", "refused"].includes(one.state))
    .sort(
      (a, b) =>
        Number(SERVING.has(b.state)) - Number(SERVING.has(a.state)) ||
        (b.tokens_per_s ?? -1) - (a.tokens_per_s ?? -1) ||
        a.name.localeCompare(b.name),
    );
}

/** Pipelines that hold this model: each is one place to be served at, and chosen as a whole. */
export function pipelinesOf(model: string, pipelines: Pipeline[]): Pipeline[] {
  return pipelines.filter((one) => one.model === model && one.stages.length > 0);
}

/** What a pipeline is chosen by: the peer ids of its stages, in the order of layers. */
export function wayOf(pipeline: Pipeline): string {
  return pipeline.stages.map((one) => one.peer).join(WAY);
}

/** The names behind what was chosen: "amber-heron", or of a pipeline "amber-heron → early-buzzard". */
export function namesOf(way: string, names: ReadonlyMap<string, string>): string {
  return peersOf(way)
    .map((peer) => names.get(peer) ?? `…${peer.slice(-6)}`)
    .join(" → ");
}

export interface Measure {
  text: string;
  title: string;
}

/** What was measured of a node; unknown is said. */
export function measures(node: PoolNode): Measure[] {
  const success = node.success_rate;
  return [
    ...pace(node),
    {
      text: success === null ? "success unknown" : `${Math.floor(success * 100)} % succeeded`,
      title: `of its last ${node.samples ?? 0} jobs, counted by the coordinator`,
    },
  ];
}

/** What was measured of a pipeline; unknown is said. */
export function pipelineMeasures(pipeline: Pipeline): Measure[] {
  const failed = pipeline.failed > 0 ? `, ${pipeline.failed} failed` : "";
  return [
    ...pace(pipeline),
    {
      text: `${pipeline.served} served${failed}`,
      title: "since its layers were first dealt, counted by the coordinator",
    },
  ];
}

function pace(one: { tokens_per_s: number | null; first_id_s: number | null }): Measure[] {
  const speed = one.tokens_per_s;
  const first = one.first_id_s;
  return [
    {
      text: speed === null ? "speed unknown" : `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`,
      title: "the most of all its streams together, measured by the coordinator",
    },
    {
      text: first === null ? "first token unknown" : `first token ${first.toFixed(2)} s`,
      title: "from sending a job to its first token, measured by the coordinator",
    },
  ];
}

/** The device is the node's own word. */
export function deviceOf(node: PoolNode): Measure {
  if (node.device === null) return { text: "device unknown", title: "the node did not say" };
  return { text: node.device, title: "as the node reports it" };
}
