// What a receipt or the usage says of an answer, as facts; pure.
import type { Usage } from "../api/shapes";
import type { Facts, Named } from "./tree";

type Names = ReadonlyMap<string, string>;

/** Peers with the names that they have here. */
export function named(peers: string[], names: Names): Named[] {
  return peers.map((peer) => ({ peer, name: names.get(peer) ?? null }));
}

/** With what the last chunk of a stream told. */
export function withUsage(facts: Facts, usage: Usage, names: Names): Facts {
  return {
    ...facts,
    nodes: named(usage.nodes, names),
    segments: usage.segments.map((peers) => named(peers, names)),
    route: usage.route,
    migrations: usage.migrations,
    prompt_tokens: usage.prompt_tokens,
    cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? null,
    completion_tokens: usage.completion_tokens,
    cost: usage.cost,
    asset: usage.asset,
    receipt: usage.receipt,
  };
}

/** A receipt, as far as the page reads it here; the receipt's own view checks all of it. */
export interface ReceiptBody {
  id: string;
  model: string;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  cost_micro: string;
  route: "pool" | "fallback";
  migrations: number;
  rate: { asset: string };
  segments: { node: string; stages?: { node: string }[] }[];
}

/** With what the receipt tells of an answer whose stream did not reach its end. */
export function withReceipt(facts: Facts, receipt: ReceiptBody, names: Names): Facts {
  const segments = receipt.segments.map((one) => one.stages?.map(({ node }) => node) ?? [one.node]);
  return {
    ...facts,
    model: receipt.model,
    nodes: named([...new Set(segments.flat())], names),
    segments: segments.map((peers) => named(peers, names)),
    route: receipt.route,
    migrations: receipt.migrations,
    prompt_tokens: receipt.prompt_tokens,
    cached_tokens: receipt.cached_tokens,
    completion_tokens: receipt.completion_tokens,
    cost: receipt.cost_micro,
    asset: receipt.rate.asset,
    receipt: receipt.id,
  };
}
