// A message that could not be sent yet, kept in this tab while its writer goes to sign in.
import type { Attached } from "./tree";

const NAME = "parhelion.chat.draft";

export interface Draft {
  text: string;
  files: Attached[];
  /** Where it is to be sent, and is shown again. */
  conversation: string;
}

/** Keep it in this tab; null forgets it. */
export function hold(draft: Draft | null): void {
  try {
    if (draft === null) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, JSON.stringify(draft));
  } catch {
    // The browser keeps nothing for pages, or not as much: it is in the page as long as that stands.
  }
}

/** What this tab keeps; null without anything that can be read. */
export function held(): Draft | null {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME) ?? "null") as Partial<Draft> | null;
    const isWhole =
      typeof kept?.text === "string" &&
      typeof kept.conversation === "string" &&
      Array.isArray(kept.files) &&
      kept.files.every((one) => typeof one?.name === "string" && typeof one.text === "string");
    return isWhole ? (kept as Draft) : null;
  } catch {
    return null;
  }
}
