// A receipt's members and their types, read from bytes that strangers hand us; pure. The same
// rules as parhelion.proof.verify: nothing missing, nothing beside, canonical encodings only.
import { canonical } from "./encoding";

export interface StageSegment {
  node: string;
  job: string;
  attempt: number;
  opening_hash: string;
  artefact: string;
  layers: [number, number];
  start: number;
  to: number;
  head: string;
  busy_ms: number;
  signature: string | null;
  reason: string | null;
}

export interface Segment {
  node: string;
  job: string;
  attempt: number;
  opening_hash: string;
  artefact: string;
  backend: string;
  start: number;
  to: number;
  head: string;
  ask: string;
  started_at_ms: number;
  ended_at_ms: number;
  signature: string | null;
  reason: string | null;
  stages?: StageSegment[];
}

export interface Receipt {
  v: number;
  id: string;
  coordinator: string;
  asset_class: string;
  issued_at_ms: number;
  model: string;
  artefact: string;
  vocabulary: string;
  template: string;
  opening_hash: string;
  prompt_hmac: string;
  head: string;
  text_hmac: string;
  params: Record<string, unknown> & { logit_bias: [number, number][] };
  seed: string;
  max_tokens: number;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  silent_ids: number;
  output_ids: number;
  finish_reason: string;
  route: string;
  migrations: number;
  rate: {
    model: string;
    asset: string;
    version: number;
    prompt_micro: number;
    completion_micro: number;
  };
  already_billed: number | null;
  sold: { tier: string; price_micro: string; max_tokens: number } | null;
  payment: string | null;
  cost_micro: string;
  segments: Segment[];
  signature: string;
}

export interface Evidence {
  receipt: string;
  opening: string;
  prompt_ids: number[];
  output_ids: number[];
  text: string;
}

export const RECEIPT_LIMIT_CHARS = 256 * 1024;
/** A receipt with many segments and a full logit_bias is under 64 kB. */
const SEGMENTS_LIMIT = 64;
const STAGES_LIMIT = 256;
const ID_LIMIT = 2 ** 32;
export const AMOUNT_LIMIT = 2 ** 53;

type Kind = (value: unknown) => boolean;

const text: Kind = (value) => typeof value === "string";
const whole: Kind = (value) => Number.isSafeInteger(value);
const number: Kind = (value) => typeof value === "number" && Number.isFinite(value);
const hash: Kind = (value) => typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
const form =
  (pattern: RegExp): Kind =>
  (value) =>
    typeof value === "string" && pattern.test(value);
const none =
  (kind: Kind): Kind =>
  (value) =>
    value === null || kind(value);
const listOf =
  (kind: Kind, limit: number): Kind =>
  (value) =>
    Array.isArray(value) && value.length <= limit && value.every(kind);
const layers: Kind = (value) => Array.isArray(value) && value.length === 2 && value.every(whole);
const bias: Kind = (value) =>
  Array.isArray(value) && value.length === 2 && whole(value[0]) && number(value[1]);

export const DECIMAL = /^(0|[1-9][0-9]{0,19})$/;

const STAGE: Record<string, Kind> = {
  node: text,
  job: text,
  attempt: whole,
  opening_hash: hash,
  artefact: hash,
  layers,
  start: whole,
  to: whole,
  head: hash,
  busy_ms: whole,
  signature: none(text),
  reason: none(text),
};

const SEGMENT: Record<string, Kind> = {
  node: text,
  job: text,
  attempt: whole,
  opening_hash: hash,
  artefact: hash,
  backend: text,
  start: whole,
  to: whole,
  head: hash,
  ask: hash,
  started_at_ms: whole,
  ended_at_ms: whole,
  signature: none(text),
  reason: none(text),
};

const PARAMS: Record<string, Kind> = {
  temperature: number,
  top_p: number,
  top_k: whole,
  min_p: number,
  presence_penalty: number,
  frequency_penalty: number,
  logit_bias: listOf(bias, 1_024),
};

const RATE: Record<string, Kind> = {
  model: text,
  asset: text,
  version: whole,
  prompt_micro: whole,
  completion_micro: whole,
};

const SOLD: Record<string, Kind> = { tier: text, price_micro: text, max_tokens: whole };

const RECEIPT: Record<string, Kind> = {
  v: (value) => value === 1,
  id: form(/^rcpt_[0-9a-v]{26}$/),
  coordinator: text,
  asset_class: form(/^(local|test|main)$/),
  issued_at_ms: whole,
  model: text,
  artefact: hash,
  vocabulary: hash,
  template: hash,
  opening_hash: hash,
  prompt_hmac: hash,
  head: hash,
  text_hmac: hash,
  params: (value) => fault(value, PARAMS) === null,
  seed: form(/^(0|-?[1-9][0-9]{0,19})$/),
  max_tokens: whole,
  prompt_tokens: whole,
  completion_tokens: whole,
  cached_tokens: whole,
  silent_ids: whole,
  output_ids: whole,
  finish_reason: form(/^[a-z_]{1,40}$/),
  route: form(/^(pool|fallback)$/),
  migrations: whole,
  rate: (value) => fault(value, RATE) === null,
  already_billed: none(whole),
  sold: none((value) => fault(value, SOLD) === null),
  payment: none(form(/^(solana|eip155):[0-9A-Za-z]{1,32}\/[0-9A-Za-z]{32,90}$/)),
  cost_micro: form(DECIMAL),
  segments: listOf(isSegment, SEGMENTS_LIMIT),
  signature: text,
};

function isSegment(value: unknown): boolean {
  if (fault(value, SEGMENT, "stages") !== null) return false;
  const { stages, ...rest } = value as Segment;
  if (rest.signature !== null && rest.reason !== null) return false;
  if (stages === undefined) return true;
  if (!Array.isArray(stages) || stages.length < 2 || stages.length > STAGES_LIMIT) return false;
  return stages.every(
    (one) => fault(one, STAGE) === null && (one.signature === null || one.reason === null),
  );
}

/** The first member that is missing, not known, or of another type; null where there is none. */
function fault(value: unknown, kinds: Record<string, Kind>, maybe?: string): string | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return "all of it";
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(kinds, name) && name !== maybe) return name;
  }
  for (const [name, kind] of Object.entries(kinds)) {
    if (!Object.hasOwn(value, name) || !kind((value as Record<string, unknown>)[name])) return name;
  }
  return null;
}

/**
 * The receipt that these bytes are. They must be its very canonical form, as the server sends it:
 * that also shows that no member is there twice. An Error says what is wrong.
 */
export function receiptFrom(bytes: string): Receipt {
  if (bytes.length > RECEIPT_LIMIT_CHARS) throw new Error("larger than any receipt");
  let value: unknown;
  try {
    value = JSON.parse(bytes);
  } catch {
    throw new Error("not JSON");
  }
  const wrong = fault(value, RECEIPT);
  if (wrong !== null) throw new Error(`${wrong.slice(0, 64)}: not what a receipt has there`);
  const body = value as Receipt;
  if (canonical(body) !== bytes.trim()) throw new Error("not in canonical form (RFC 8785)");
  const ids = body.params.logit_bias.map(([id]) => id);
  if (ids.some((id, at) => at > 0 && id <= (ids[at - 1] as number))) {
    throw new Error("params.logit_bias: not sorted by id");
  }
  return body;
}

const id: Kind = (value) => whole(value) && (value as number) >= 0 && (value as number) < ID_LIMIT;
const IDS_LIMIT = 4 * 1024 * 1024;

const EVIDENCE: Record<string, Kind> = {
  receipt: text,
  opening: hash,
  prompt_ids: listOf(id, IDS_LIMIT),
  output_ids: listOf(id, IDS_LIMIT),
  text: (value) => typeof value === "string" && value.isWellFormed(),
};

/** The evidence in a body; an Error says what is wrong. */
export function evidenceFrom(value: unknown): Evidence {
  const wrong = fault(value, EVIDENCE);
  if (wrong !== null) throw new Error(`${wrong.slice(0, 64)}: not what evidence has there`);
  return value as Evidence;
}
