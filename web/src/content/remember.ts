// What this tab remembers over a reload: a draft, an hour's end, the last answer. Nothing that pays.

const PREFIX = "parhelion.content.";
const ID = /^[0-9a-f]{32}$/;

/** Where the last answer of this tab is kept. */
export interface Last {
  id: string;
  title: string;
}

/** The prompt that was being written for a tier. */
export function draftOf(tier: string): string {
  return read(`draft.${tier}`) ?? "";
}

/** Keep a prompt that is not sent yet; "" forgets it. */
export function keepDraft(tier: string, text: string): void {
  write(`draft.${tier}`, text || null);
}

/** Until when the bought answer of a tier can be asked for; null where this tab does not know. */
export function untilOf(tier: string, now_ms: number): number | null {
  const until_ms = Number(read(`until.${tier}`));
  return until_ms > now_ms ? until_ms : null;
}

/** Keep the end of a bought answer's hour; null once it is spent. */
export function keepUntil(tier: string, until_ms: number | null): void {
  write(`until.${tier}`, until_ms === null ? null : String(until_ms));
}

/** The answer that was kept last. */
export function last(): Last | null {
  try {
    const found = JSON.parse(read("last") ?? "null") as Partial<Last> | null;
    const isSound = typeof found?.title === "string" && ID.test(found.id ?? "");
    return isSound ? (found as Last) : null;
  } catch {
    return null; // Not ours: as if nothing were remembered.
  }
}

export function keepLast(kept: Last): void {
  write("last", JSON.stringify(kept));
}

function read(name: string): string | null {
  try {
    return sessionStorage.getItem(PREFIX + name);
  } catch {
    return null; // The browser keeps nothing for pages.
  }
}

function write(name: string, value: string | null): void {
  try {
    if (value === null) sessionStorage.removeItem(PREFIX + name);
    else sessionStorage.setItem(PREFIX + name, value);
  } catch {
    // As above, or it is full: what stands on the page stays there until a reload.
  }
}
