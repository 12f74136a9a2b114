// A conversation as a tree of messages: editing and regenerating add siblings, nothing is lost.

export type Role = "user" | "assistant";

/** How an answer ended, or that it has not yet. "cut": the stream ended without saying why. */
export type State = "streaming" | "done" | "stopped" | "cut" | "failed";

export interface Attached {
  name: string;
  text: string;
  /** What was left out of it, in words; null for a whole file. */
  note: string | null;
}

/** A node, with the name that it had; null where nobody knew one. */
export interface Named {
  peer: string;
  name: string | null;
}

/** What is known of one answer; null is what nobody told or measured. */
export interface Facts {
  state: State;
  model: string | null;
  finish: string | null;
  error: string | null;
  /** The stable name of the error. */
  code: string | null;
  hint: string | null;
  request: string | null;
  completion: string | null;
  receipt: string | null;
  nodes: Named[];
  /** Who made each stretch of it, in the order of layers; more than one where it was moved. */
  segments: Named[][];
  route: "pool" | "fallback" | null;
  migrations: number | null;
  prompt_tokens: number | null;
  cached_tokens: number | null;
  completion_tokens: number | null;
  cost: string | null;
  asset: string | null;
  first_token_ms: number | null;
  tokens_per_s: number | null;
}

export interface Message {
  id: string;
  parent: string | null;
  role: Role;
  text: string;
  files: Attached[];
  at_ms: number;
  /** When it last became another (`changed`): of two copies the later one holds. */
  revised_at_ms?: number;
  facts: Facts | null;
}

export interface Conversation {
  id: string;
  title: string;
  created_at_ms: number;
  changed_at_ms: number;
  /** In the order in which they were made: of siblings the latest stands last. */
  messages: Message[];
  /** Which child is shown of each message ("" is the root); absent: the latest. */
  chosen: Record<string, string>;
}

export const TITLE_LIMIT_CHARS = 120;
const TITLE_CHARS = 60;

/** A conversation without a message. */
export function empty(id: string, now_ms: number): Conversation {
  return {
    id,
    title: "",
    created_at_ms: now_ms,
    changed_at_ms: now_ms,
    messages: [],
    chosen: {},
  };
}

/** The other answers to the same question, or other wordings of it, itself included. */
export function siblings(conversation: Conversation, message: Message): Message[] {
  return conversation.messages.filter((one) => one.parent === message.parent);
}

/** The messages that are shown, from the first on. */
export function path(conversation: Conversation): Message[] {
  const children = new Map<string, Message[]>();
  for (const one of conversation.messages) {
    const key = one.parent ?? "";
    const among = children.get(key);
    if (among) among.push(one);
    else children.set(key, [one]);
  }
  const shown: Message[] = [];
  const seen = new Set<string>();
  let at = "";
  for (;;) {
    const among = children.get(at);
    const next = among?.find((one) => one.id === conversation.chosen[at]) ?? among?.at(-1);
    // A circle can only come from a file that somebody else wrote.
    if (!next || seen.has(next.id)) return shown;
    seen.add(next.id);
    shown.push(next);
    at = next.id;
  }
}

/** The messages from the root to this one, itself included. */
export function lineage(conversation: Conversation, id: string): Message[] {
  const byId = new Map(conversation.messages.map((one) => [one.id, one]));
  const line: Message[] = [];
  let at = byId.get(id);
  while (at && line.length < conversation.messages.length) {
    line.unshift(at);
    at = at.parent === null ? undefined : byId.get(at.parent);
  }
  return line;
}

/** What a request says again: without questions that were refused and got no word of answer. */
export function told(line: Message[]): Message[] {
  // Else a question that is too long would have all that follow it refused, too.
  return line.filter((one, at) => !isRefused(one) && !isRefused(line[at + 1]));
}

/** An answer that failed before its first word. */
export function isRefused(message: Message | undefined): boolean {
  return message?.facts?.state === "failed" && message.text === "";
}

/** With one more message, which is the one that is shown. */
export function added(conversation: Conversation, message: Message): Conversation {
  const titled =
    conversation.title === "" && message.role === "user"
      ? titleOf(message.text || (message.files[0]?.name ?? ""))
      : conversation.title;
  return {
    ...conversation,
    title: titled,
    changed_at_ms: message.at_ms,
    messages: [...conversation.messages, message],
    chosen: { ...conversation.chosen, [message.parent ?? ""]: message.id },
  };
}

/** With one message replaced by its newer self. */
export function changed(
  conversation: Conversation,
  message: Message,
  now_ms: number,
): Conversation {
  const revised = { ...message, revised_at_ms: now_ms };
  return {
    ...conversation,
    changed_at_ms: now_ms,
    messages: conversation.messages.map((one) => (one.id === message.id ? revised : one)),
  };
}

/** Show the sibling `step` places away (-1 the one before); the same at either end. */
export function turned(conversation: Conversation, message: Message, step: number): Conversation {
  const among = siblings(conversation, message);
  const next = among[among.findIndex((one) => one.id === message.id) + step];
  if (!next) return conversation;
  return {
    ...conversation,
    chosen: { ...conversation.chosen, [message.parent ?? ""]: next.id },
  };
}

/** A conversation of its own that begins with everything up to this message. */
export function branched(
  conversation: Conversation,
  id: string,
  newId: string,
  now_ms: number,
): Conversation {
  return {
    ...empty(newId, now_ms),
    title: `${conversation.title} (branch)`.slice(0, TITLE_LIMIT_CHARS),
    messages: lineage(conversation, id).map((one) => ({ ...one })),
  };
}

/** Both of two copies of a conversation, as when two tabs wrote to it: nothing is lost. */
export function merged(stored: Conversation, mine: Conversation): Conversation {
  const theirs = new Map(stored.messages.map((one) => [one.id, one]));
  const known = new Set(mine.messages.map((one) => one.id));
  const others = stored.messages.filter((one) => !known.has(one.id));
  const both = mine.messages.map((one) => later(theirs.get(one.id), one));
  return {
    ...mine,
    changed_at_ms: Math.max(stored.changed_at_ms, mine.changed_at_ms),
    messages: [...others, ...both].sort((a, b) => a.at_ms - b.at_ms),
    chosen: { ...stored.chosen, ...mine.chosen },
  };
}

function later(theirs: Message | undefined, mine: Message): Message {
  return theirs && (theirs.revised_at_ms ?? 0) > (mine.revised_at_ms ?? 0) ? theirs : mine;
}

/** The first line of a question, short. */
export function titleOf(text: string): string {
  const line = text.trim().split(/\s*\n/)[0] ?? "";
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1).trimEnd()}…` : line;
}

/** Nothing known yet. */
export function unknownFacts(state: State): Facts {
  return {
    state,
    model: null,
    finish: null,
    error: null,
    code: null,
    hint: null,
    request: null,
    completion: null,
    receipt: null,
    nodes: [],
    segments: [],
    route: null,
    migrations: null,
    prompt_tokens: null,
    cached_tokens: null,
    completion_tokens: null,
    cost: null,
    asset: null,
    first_token_ms: null,
    tokens_per_s: null,
  };
}

/** What the model is sent of a message: its files follow the text, each in a fence of its own. */
export function contentOf(message: Pick<Message, "text" | "files">): string {
  const parts = message.text ? [message.text] : [];
  for (const file of message.files) {
    // Longer than any run of backticks inside, or the file would end the fence.
    const runs = file.text.match(/`+/g) ?? [];
    const longest = runs.reduce((most, run) => Math.max(most, run.length), 2);
    const fence = "`".repeat(longest + 1);
    parts.push(`File ${file.name}:\n${fence}\n${file.text}\n${fence}`);
  }
  return parts.join("\n\n");
}
