// What a person chooses for a pool, what of it changes, when it holds, and what is sent; pure.

import type { Amount, Model, Setup, Tier } from "../api/shapes";
import { microOf, plain } from "../parts/amount";

/** Prices as they are typed, "0.25"; they become base units when they are sent. */
export interface DraftTier {
  name: string;
  price: string;
  max_tokens: string;
  max_prompt_tokens: string;
  model: string | null;
  temperature: number | null;
}

export interface DraftRate {
  asset: string;
  prompt: string;
  completion: string;
}

export interface Draft {
  model: string;
  nodes: string;
  private: boolean;
  /** Of `model`, for a million tokens. */
  rates: DraftRate[];
  /** All that are to be sold, where payments on networks are taken. */
  tiers: DraftTier[];
}

export interface Change {
  what: string;
  from: string;
  to: string;
  when: "at once" | "from the next start on";
}

/** The body of PUT /v1/setup; without rates and tiers those stay. */
export interface Body {
  model: string;
  nodes: number;
  private: boolean;
  rates?: { asset: string; prompt: Amount; completion: Amount }[];
  tiers?: Omit<Tier, "asset">[];
}

/** As the server has it (parhelion.setup): past it someone slipped a digit. */
export const NODES_LIMIT = 10_000;
export const TIERS_LIMIT = 16;
const TIER_TOKENS_LIMIT = 1_048_576;
const TIER_NAME = /^[a-z][a-z0-9-]{0,31}$/;

/** What stands now, as it would be typed. */
export function draftOf(setup: Setup, models: Model[]): Draft {
  const model = setup.model ?? setup.models[0] ?? "";
  return {
    model,
    nodes: String(setup.nodes_wanted),
    private: setup.private,
    rates: ratesOf(model, setup, models),
    tiers: draftTiers(setup.next_tiers ?? setup.tiers),
  };
}

/** Tiers as they would be typed. */
export function draftTiers(tiers: Tier[]): DraftTier[] {
  return tiers.map((tier) => ({
    ...tier,
    price: typed(tier.price),
    max_tokens: String(tier.max_tokens),
    max_prompt_tokens: String(tier.max_prompt_tokens),
  }));
}

/** What a model costs now, as it would be typed. */
export function ratesOf(model: string, setup: Setup, models: Model[]): DraftRate[] {
  const found = models.find((one) => one.id === model)?.rates;
  return (found ?? (model === setup.model ? setup.rates : [])).map((rate) => ({
    asset: rate.asset,
    prompt: typed(rate.prompt),
    completion: typed(rate.completion),
  }));
}

/** A tier like those that people sell, of a name that is free. */
export function newTier(tiers: DraftTier[]): DraftTier {
  let at = tiers.length + 1;
  while (tiers.some((tier) => tier.name === `tier-${at}`)) at += 1;
  const sizes = { max_tokens: "256", max_prompt_tokens: "2000" };
  return { name: `tier-${at}`, price: "0.05", ...sizes, model: null, temperature: null };
}

/** What is wrong with the draft, in words; empty where nothing is. */
export function faults(draft: Draft): string[] {
  const found: string[] = [];
  if (!isCount(draft.nodes, NODES_LIMIT)) found.push(`Nodes: a number from 1 to ${NODES_LIMIT}.`);
  if (draft.private) return found;
  for (const rate of draft.rates) {
    if (micro(rate.prompt) === null || micro(rate.completion) === null) {
      found.push(`Rates in ${rate.asset}: amounts such as 4 or 0.25.`);
    }
  }
  found.push(...tierFaults(draft.tiers));
  return found;
}

function tierFaults(tiers: DraftTier[]): string[] {
  const found: string[] = [];
  const names = new Set<string>();
  for (const tier of tiers) {
    const called = tier.name || "A tier without a name";
    if (!TIER_NAME.test(tier.name)) {
      found.push(`${called}: small letters, digits and -, a letter first, at most 32.`);
    }
    if (names.has(tier.name)) found.push(`${called}: two tiers have this name.`);
    names.add(tier.name);
    const price = micro(tier.price);
    if (price === null || price === "0") found.push(`${called}: a price such as 0.25, above 0.`);
    if (
      ![tier.max_tokens, tier.max_prompt_tokens].every((one) => isCount(one, TIER_TOKENS_LIMIT))
    ) {
      found.push(`${called}: tokens from 1 to ${TIER_TOKENS_LIMIT}.`);
    }
  }
  if (tiers.length > TIERS_LIMIT) found.push(`At most ${TIERS_LIMIT} tiers.`);
  return found;
}

/**
 * What the draft changes of what stands, and when each change holds. Of a draft without faults.
 * `isSelling`: payments on networks are taken now; else tiers wait for a start that takes them.
 */
export function changes(draft: Draft, now: Draft, isSelling: boolean): Change[] {
  const found: Change[] = [];
  const at = (what: string, from: string, to: string, when: Change["when"] = "at once"): void => {
    if (from !== to) found.push({ what, from, to, when });
  };
  at("Default model", now.model, draft.model);
  at("Number of nodes", now.nodes, draft.nodes.trim());
  at("Kind of pool", kind(now), kind(draft));
  if (draft.private) return found;
  for (const rate of changedRates(draft, now)) {
    const before = now.rates.find((one) => one.asset === rate.asset);
    const old = before && draft.model === now.model ? rateWords(before) : "as it was";
    at(`Rates of ${draft.model} in ${rate.asset}`, old, rateWords(rate));
  }
  if (!haveTiersChanged(draft, now)) return found;
  const when = isSelling ? "at once" : "from the next start on";
  for (const tier of draft.tiers) {
    const before = now.tiers.find((one) => one.name === tier.name);
    at(`Tier ${tier.name}`, before ? tierWords(before) : "none", tierWords(tier), when);
  }
  for (const tier of now.tiers.filter((one) => draft.tiers.every((two) => two.name !== one.name))) {
    at(`Tier ${tier.name}`, tierWords(tier), "no longer sold", when);
  }
  return found;
}

/** What is sent: rates and tiers only where they change, so that others' changes stay. */
export function body(draft: Draft, now: Draft): Body {
  const sent: Body = {
    model: draft.model,
    nodes: Number(draft.nodes),
    private: draft.private,
  };
  if (draft.private) return sent;
  const rates = changedRates(draft, now);
  if (rates.length > 0) {
    sent.rates = rates.map((rate) => ({
      asset: rate.asset,
      prompt: microOf(rate.prompt),
      completion: microOf(rate.completion),
    }));
  }
  if (haveTiersChanged(draft, now)) {
    sent.tiers = draft.tiers.map((tier) => ({
      name: tier.name,
      price: microOf(tier.price),
      max_tokens: Number(tier.max_tokens),
      max_prompt_tokens: Number(tier.max_prompt_tokens),
      model: tier.model,
      temperature: tier.temperature,
    }));
  }
  return sent;
}

/** `now.rates` are those of `draft.model` here: the page reads them anew for another model. */
function changedRates(draft: Draft, now: Draft): DraftRate[] {
  return draft.rates.filter((rate) => {
    const before = now.rates.find((one) => one.asset === rate.asset);
    const same = (one: string, other: string): boolean => micro(one) === micro(other);
    return (
      !before || !same(before.prompt, rate.prompt) || !same(before.completion, rate.completion)
    );
  });
}

function haveTiersChanged(draft: Draft, now: Draft): boolean {
  if (draft.tiers.length === 0) return false;
  return listed(draft.tiers) !== listed(now.tiers);
}

function listed(tiers: DraftTier[]): string {
  return JSON.stringify(tiers.map((tier) => [tier.name, tierWords(tier)]));
}

function kind(draft: Draft): string {
  return draft.private ? "private: free, without keys" : "paid";
}

function rateWords(rate: DraftRate): string {
  return `${rate.prompt.trim()} for prompts, ${rate.completion.trim()} for answers, a million tokens`;
}

function tierWords(tier: DraftTier): string {
  const price = micro(tier.price);
  const written = price === null ? tier.price : plain(price);
  const sizes = `at most ${Number(tier.max_tokens)} tokens for a prompt of ${Number(tier.max_prompt_tokens)}`;
  return `${written}, ${sizes}${tier.model ? `, by ${tier.model}` : ""}`;
}

function micro(text: string): Amount | null {
  try {
    return microOf(text);
  } catch {
    return null;
  }
}

function typed(amount: Amount): string {
  return plain(amount).replaceAll(",", "");
}

function isCount(text: string, most: number): boolean {
  return /^\d{1,7}$/.test(text.trim()) && Number(text) >= 1 && Number(text) <= most;
}

/** How many nodes are ready of those that were asked for, which more may have come than. */
export function counted(ready: number, wanted: number): string {
  if (ready > wanted) return `${ready} nodes ready, ${wanted} asked for`;
  return `${ready} of ${wanted} ${wanted === 1 ? "node" : "nodes"} ready`;
}
