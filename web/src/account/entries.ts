// The kinds of entries in an account's history, as a person says them.

import { plain } from "../parts/amount";

export interface Entry {
  id: string;
  at_ms: number;
  kind: string;
  asset: string;
  amount: string;
  available: string;
  held: string;
  request: string | null;
  memo: string;
  network: string | null;
  transaction: string | null;
}

const MEANINGS: Record<string, string> = {
  hold: "Set aside for an answer",
  charge: "Charged for an answer",
  return: "Returned: not used",
  void: "Returned: not charged",
  expire: "Returned: not asked for in time",
  grant: "Granted",
  deposit: "Paid in",
  share: "Earned by serving",
  withdrawal: "Sent back to the wallet",
};

/** What an entry of this kind is; a kind that is not known here keeps its own word. */
export function meaning(kind: string): string {
  return MEANINGS[kind] ?? kind;
}

/** What an entry did to a column, with its sign: "+1.00", "−0.01"; nothing where it did nothing. */
export function change(micro: string, decimals: number): string {
  const value = BigInt(micro);
  return value === 0n ? "" : `${value > 0n ? "+" : ""}${plain(micro, 2, decimals)}`;
}

/** One line of the history: what came of one answer, or an entry that stands by itself. */
export interface Line {
  id: string;
  /** The entry that says it: of an answer its charge, or else the latest. */
  main: Entry;
  what: string;
  available: string;
  held: string;
  /** All entries of it, newest first; one alone has nothing to open. */
  parts: Entry[];
}

/** What moves for one request; everything else stays a line of its own. */
const OF_REQUEST = new Set(["hold", "charge", "return", "void", "expire", "withdrawal"]);
/** What the ledger notes of a bought answer's hold when the prompt's own takes its place. */
const SPENT_BY = "spent by ";

/** One line for each answer, newest first; the entries may come in any order. */
export function lines(entries: Entry[]): Line[] {
  const replaced = new Map<string, string>();
  for (const { request, kind, memo } of entries)
    if (request && kind === "void" && memo.startsWith(SPENT_BY))
      replaced.set(request, memo.slice(SPENT_BY.length));
  const groups = new Map<string, Entry[]>();
  for (const entry of entries) {
    const request = OF_REQUEST.has(entry.kind) ? entry.request : null;
    const key = request ? `of ${replaced.get(request) ?? request}` : entry.id;
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  const found = [...groups].map(([id, parts]) => line(id, parts.sort(newerFirst)));
  return found.sort((one, other) => newerFirst(one.main, other.main));
}

const newerFirst = (one: Entry, other: Entry): number => other.at_ms - one.at_ms;

function line(id: string, parts: Entry[]): Line {
  const latest = parts[0]!;
  if (!id.startsWith("of "))
    return { id, main: latest, what: meaning(latest.kind), ...columns([latest]), parts };
  const paid = parts.filter((one) => one.kind === "charge" || one.kind === "withdrawal");
  if (paid.length > 0) {
    // Not the sum of all parts: the hold may still be on a page that is not loaded.
    const cost = paid.reduce((sum, one) => sum + size(one.amount), 0n);
    const what = meaning(paid[0]!.kind);
    return { id, main: paid[0]!, what, available: String(-cost), held: "0", parts };
  }
  const closed = parts.filter((one) => one.kind !== "hold");
  const holds = parts.filter((one) => one.kind === "hold").length;
  // A bought answer's hold goes when the prompt's own comes, which is open still then.
  if (holds > closed.length || closed.every((one) => one.memo.startsWith(SPENT_BY)))
    return { id, main: latest, what: "Held", ...columns(parts), parts };
  const { kind } = closed[0]!;
  // Its charge may be the first on the next page: only with the hold everything of it is here.
  const keepsWord = kind === "expire" || (kind === "return" && holds === 0);
  const what = keepsWord ? meaning(kind) : "Nothing was charged";
  return { id, main: closed[0]!, what, available: "0", held: "0", parts };
}

const size = (amount: string): bigint => (BigInt(amount) < 0n ? -BigInt(amount) : BigInt(amount));

function columns(parts: Entry[]): { available: string; held: string } {
  const sum = (of: "available" | "held"): string =>
    String(parts.reduce((all, one) => all + BigInt(one[of]), 0n));
  return { available: sum("available"), held: sum("held") };
}
