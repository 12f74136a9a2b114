// Facts of an answer in words; what nobody measured is an em dash with the reason. Pure.
import { money } from "../parts/amount";
import type { Facts, Named } from "./tree";

export interface Figure {
  label: string;
  text: string;
  title: string;
}

export const UNKNOWN = "—";

/** 0.42 s, 12 s */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 0)} s`;
}

/** 41 tokens/s, 3.2 tokens/s */
export function rate(tokens_per_s: number): string {
  return `${tokens_per_s.toFixed(tokens_per_s < 10 ? 1 : 0)} tokens/s`;
}

export function nodeName(node: { peer: string; name: string | null }): string {
  return node.name ?? `…${node.peer.slice(-6)}`;
}

/** What stands under an answer. */
export function figures(facts: Facts): Figure[] {
  const made: Figure[] = [];
  const add = (label: string, text: string | null, title: string, why: string) =>
    made.push({ label, text: text ?? UNKNOWN, title: text === null ? why : title });
  add("model", facts.model, "named by the answer", "the answer named no model");
  add(...routeOf(facts));
  const ended = "the stream ended before the coordinator told it";
  add(
    "speed",
    facts.tokens_per_s === null ? null : rate(facts.tokens_per_s),
    "measured in this page, from the first token to the last",
    "too short, or ended too early, to be measured",
  );
  add(
    "first token",
    facts.first_token_ms === null ? null : seconds(facts.first_token_ms),
    "measured in this page, from sending to the first token",
    "no token came",
  );
  add("tokens", tokensOf(facts), tokensTitle(facts), ended);
  add(
    "cost",
    facts.cost === null || facts.asset === null ? null : money(facts.cost, facts.asset),
    "exact, counted by the coordinator; the receipt has the arithmetic",
    ended,
  );
  return made;
}

function routeOf(facts: Facts): [string, string | null, string, string] {
  const unknown = "the stream ended before the coordinator told which node it was";
  if (facts.route === null) return ["node", null, "", unknown];
  const peers = facts.nodes.map((one) => one.peer).join("\n");
  const names = ways(facts).join(", then ");
  if (facts.route === "fallback") {
    const text = names ? `${names} (the pool's own engine)` : "the pool's own engine";
    return ["node", text, peers || "no node of the pool could serve it", unknown];
  }
  return ["node", names || null, peers, "no node delivered a token"];
}

/** Of each place that an answer was made at its nodes: "a → b" is a pipeline, in order of layers. */
function ways(facts: Facts): string[] {
  // A conversation that was kept before segments were told has the nodes alone.
  const segments = facts.segments?.length ? facts.segments : facts.nodes.map((one) => [one]);
  return segments.map((nodes) => nodes.map(nodeName).join(" → "));
}

function tokensOf(facts: Facts): string | null {
  if (facts.prompt_tokens === null || facts.completion_tokens === null) return null;
  const count = (value: number) => value.toLocaleString("en");
  return `${count(facts.prompt_tokens)} + ${count(facts.completion_tokens)}`;
}

function tokensTitle(facts: Facts): string {
  const cached = facts.cached_tokens ? `, ${facts.cached_tokens} of the prompt from its cache` : "";
  return `prompt + answer, counted by the coordinator${cached}`;
}

/** Who makes a growing answer, and whether it began elsewhere. */
export function answering(nodes: Named[], hasMoved: boolean): string | null {
  if (nodes.length === 0) return null;
  const names = nodes.map(nodeName).join(" → ");
  return hasMoved ? `↻ continued on ${names}` : `answering: ${names}`;
}

/** "continued on amber-heron", where it was. */
export function continuedOn(facts: Facts): string | null {
  if (!facts.migrations) return null;
  const last = ways(facts).at(-1);
  const where = last ? `continued on ${last}` : "sent again to another node";
  return facts.migrations > 1 ? `${where}, after ${facts.migrations} moves` : where;
}

/** Why an answer ended, where it did not by itself. */
export function endingOf(facts: Facts): string | null {
  if (facts.state === "stopped") return "You stopped this answer. What was delivered is charged.";
  if (facts.code === "invalid_session") return "Your session has ended.";
  if (needsAccount(facts)) return "Answers here cost a little, and nobody is signed in.";
  if (facts.state === "cut" || facts.state === "failed") return facts.error;
  if (facts.finish === "length") return "The answer reached its longest length.";
  return null;
}

const MONEY = new Set([
  ...["missing_credentials", "invalid_api_key", "invalid_session", "payment_required"],
  ...["insufficient_credit", "key_limit_reached"],
]);

/** Whether an answer failed for want of somebody who pays: the account page helps with that. */
export function needsPayer(facts: Facts): boolean {
  return facts.code !== null && MONEY.has(facts.code);
}

/** Whether nobody was signed in: what the API says of that is for programs that pay by themselves. */
export function needsAccount(facts: Facts): boolean {
  return facts.code === "payment_required" || facts.code === "missing_credentials";
}

const NOBODY = "sign in or create an account, then press Try again";

const HINTS: Readonly<Record<string, string>> = {
  payment_required: NOBODY,
  missing_credentials: NOBODY,
  invalid_session: "sign in again, then try again",
};

/** What to do about a failure; the server's word, but where that is for programs. */
export function hintOf(facts: Facts): string | null {
  return HINTS[facts.code ?? ""] ?? facts.hint;
}

/** What a screen reader is told when an answer has ended. */
export function announced(facts: Facts): string {
  const why = endingOf(facts);
  if (facts.state === "failed" || facts.state === "cut") return `The answer failed. ${why ?? ""}`;
  const moved = continuedOn(facts);
  return ["Answer finished.", why, moved && `It was ${moved}.`].filter(Boolean).join(" ");
}
