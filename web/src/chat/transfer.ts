// Conversations as a file: written in one form, and read back as from a stranger. Pure.
import {
  TITLE_LIMIT_CHARS,
  unknownFacts,
  type Attached,
  type Conversation,
  type Facts,
  type Message,
  type State,
} from "./tree";

const FORMAT = "parhelion.chat";
const VERSION = 1;
export const IMPORT_LIMIT_BYTES = 64 * 1024 * 1024;
/** It is read as one text: a tab can hold a few times as much. */
const CONVERSATIONS_LIMIT = 5_000;
const MESSAGES_LIMIT = 5_000;
const TEXT_LIMIT_CHARS = 4 * 1024 * 1024;
/** The API takes no larger body, so no message was. */
const FILES_LIMIT = 10;
const NAME_LIMIT_CHARS = 255;
const ID = /^[0-9A-Za-z-]{1,64}$/;
const STATES: readonly State[] = ["done", "stopped", "cut", "failed"];

/** The file's text. */
export function written(conversations: Conversation[], now_ms: number): string {
  const body = { format: FORMAT, version: VERSION, exported_at_ms: now_ms, conversations };
  return `${JSON.stringify(body, null, 1)}\n`;
}

/** What the file holds; an Error whose message is for the person says why it cannot be read. */
export function readBack(text: string): Conversation[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error("This is no JSON file.");
  }
  const top = record(body, "the file");
  if (top.format !== FORMAT) throw new Error("This is no file of conversations from these pages.");
  if (top.version !== VERSION)
    throw new Error("This file is of a version that this page cannot read.");
  const all = list(top.conversations, "conversations", CONVERSATIONS_LIMIT);
  return all.map((one, at) => conversation(one, `conversation ${at + 1}`));
}

/** One conversation from anywhere but this page's own memory. */
export function conversation(value: unknown, where: string): Conversation {
  const from = record(value, where);
  const messages = list(from.messages, `${where}: messages`, MESSAGES_LIMIT).map((one, at) =>
    message(one, `${where}, message ${at + 1}`),
  );
  const ids = new Set(messages.map((one) => one.id));
  if (ids.size !== messages.length) throw new Error(`${where}: two messages have one id.`);
  for (const one of messages) {
    if (one.parent !== null && !ids.has(one.parent)) {
      throw new Error(`${where}: a message answers one that is not there.`);
    }
  }
  const chosen: Record<string, string> = {};
  for (const [parent, child] of Object.entries(record(from.chosen ?? {}, `${where}: chosen`))) {
    if ((parent === "" || ids.has(parent)) && ids.has(String(child)))
      chosen[parent] = String(child);
  }
  return {
    id: id(from.id, where),
    title: text(from.title, `${where}: title`, TITLE_LIMIT_CHARS),
    created_at_ms: time(from.created_at_ms, where),
    changed_at_ms: time(from.changed_at_ms, where),
    messages,
    chosen,
  };
}

function message(value: unknown, where: string): Message {
  const from = record(value, where);
  if (from.role !== "user" && from.role !== "assistant") throw new Error(`${where}: no such role.`);
  return {
    id: id(from.id, where),
    parent: from.parent === null ? null : id(from.parent, where),
    role: from.role,
    text: text(from.text, where, TEXT_LIMIT_CHARS),
    files: list(from.files ?? [], `${where}: files`, FILES_LIMIT).map((one) => file(one, where)),
    at_ms: time(from.at_ms, where),
    facts: from.role === "assistant" ? facts(from.facts) : null,
  };
}

function file(value: unknown, where: string): Attached {
  const from = record(value, `${where}: file`);
  return {
    name: text(from.name, where, NAME_LIMIT_CHARS),
    text: text(from.text, where, TEXT_LIMIT_CHARS),
    note: typeof from.note === "string" ? from.note.slice(0, NAME_LIMIT_CHARS) : null,
  };
}

/** Facts of the file where they have the right type; everything else is unknown. */
function facts(value: unknown): Facts {
  const made = unknownFacts("done");
  if (typeof value !== "object" || value === null) return made;
  const from = value as Record<string, unknown>;
  if (STATES.includes(from.state as State)) made.state = from.state as State;
  const texts = ["model", "finish", "error", "hint", "request", "completion", "receipt"] as const;
  for (const name of [...texts, "asset", "code"] as const) {
    const one = from[name];
    if (typeof one === "string") made[name] = one.slice(0, 2_000);
  }
  const numbers = ["migrations", "prompt_tokens", "cached_tokens", "completion_tokens"] as const;
  for (const name of [...numbers, "first_token_ms", "tokens_per_s"] as const) {
    const one = from[name];
    if (typeof one === "number" && Number.isFinite(one) && one >= 0) made[name] = one;
  }
  if (typeof from.cost === "string" && /^\d{1,20}$/.test(from.cost)) made.cost = from.cost;
  if (from.route === "pool" || from.route === "fallback") made.route = from.route;
  made.nodes = nodes(from.nodes);
  if (Array.isArray(from.segments)) made.segments = from.segments.slice(0, 64).map(nodes);
  return made;
}

function nodes(value: unknown): Facts["nodes"] {
  return Array.isArray(value) ? value.slice(0, 64).flatMap(node) : [];
}

function node(value: unknown): Facts["nodes"] {
  const from = (value ?? {}) as Record<string, unknown>;
  if (typeof from.peer !== "string") return [];
  const name = typeof from.name === "string" ? from.name.slice(0, 128) : null;
  return [{ peer: from.peer.slice(0, 128), name }];
}

function record(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error(`${where} is not what such a file has there.`);
  }
  return value as Record<string, unknown>;
}

function list(value: unknown, where: string, limit: number): unknown[] {
  if (!Array.isArray(value)) throw new Error(`${where}: not a list.`);
  if (value.length > limit) throw new Error(`${where}: more than ${limit.toLocaleString("en")}.`);
  return value;
}

function text(value: unknown, where: string, limit: number): string {
  if (typeof value !== "string") throw new Error(`${where}: not a text.`);
  if (value.length > limit) throw new Error(`${where}: longer than ${limit.toLocaleString("en")}.`);
  return value;
}

function id(value: unknown, where: string): string {
  if (typeof value !== "string" || !ID.test(value)) throw new Error(`${where}: not an id.`);
  return value;
}

function time(value: unknown, where: string): number {
  // The latest time that a Date can hold.
  if (typeof value !== "number" || !(value >= 0 && value <= 8.64e15)) {
    throw new Error(`${where}: not a time.`);
  }
  return value;
}
