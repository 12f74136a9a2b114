// Check a receipt in the page: what holds, what does not, and what could not be checked.
import { bytesOf, bytesOfHex, canonical, hexOf, joined, keyOfPeer, utf8 } from "./encoding";
import {
  evidenceFrom,
  receiptFrom,
  type Evidence,
  type Receipt,
  type Segment,
  type StageSegment,
} from "./form";
import { counts, price, type Finding } from "./sums";

export interface Check {
  name: "format" | "signature" | "segments" | "identity" | "counts" | "price" | "ids" | "text";
  state: "ok" | "failed" | "unchecked";
  detail: string;
}

export interface Shown {
  /** Who must have signed it, as somebody else than the receipt says; null: nobody said. */
  coordinator?: string | null;
  /** The body of `?evidence=1`, its evidence alone. */
  evidence?: unknown;
  /** The answer as it stands on the page. */
  text?: string | null;
}

const SIGNATURE_BYTES = 64;
const NO_CRYPTO =
  "this browser gives a page no Ed25519 here: open it over https or at localhost, or use `parhelion receipt verify`";

type Held = boolean | null;

/** Every check in a fixed order; never throws. */
export async function verify(bytes: string, shown: Shown = {}): Promise<Check[]> {
  let body: Receipt;
  try {
    body = receiptFrom(bytes);
  } catch (error) {
    return [check("format", "failed", error instanceof Error ? error.message : String(error))];
  }
  const signature = await signed(body);
  return [
    check("format", "ok", `${body.id}, version ${body.v}, in canonical form`),
    signature,
    await segments(body),
    identity(body, shown.coordinator ?? null, signature),
    summed("counts", counts(body)),
    summed("price", price(body)),
    ...(await opened(body, shown)),
  ];
}

function check(name: Check["name"], state: Check["state"], detail: string): Check {
  return { name, state, detail };
}

function summed(name: Check["name"], found: Finding): Check {
  return check(name, found.fault === null ? "ok" : "failed", found.words);
}

// --- signatures -------------------------------------------------------------------------------

async function signed(body: Receipt): Promise<Check> {
  const { signature, ...rest } = body;
  const holds = await holdsOf(body.coordinator, "parhelion/receipt/1\0", rest, signature);
  if (holds === null) return check("signature", "unchecked", NO_CRYPTO);
  return holds
    ? check("signature", "ok", `signed by ${body.coordinator}`)
    : check("signature", "failed", `not signed by ${body.coordinator}, or changed after signing`);
}

/** Whether a peer signed this; null where this browser cannot tell. */
async function holdsOf(peer: string, domain: string, body: object, text: string): Promise<Held> {
  const key = keyOfPeer(peer);
  const signature = bytesOf(text);
  if (key === null || signature?.length !== SIGNATURE_BYTES) return false;
  if (!globalThis.crypto?.subtle) return null;
  let imported: CryptoKey;
  try {
    imported = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
  } catch (error) {
    // An older browser does not know the algorithm; a key that is no point is a bad key.
    return error instanceof DOMException && error.name === "NotSupportedError" ? null : false;
  }
  return crypto.subtle.verify("Ed25519", imported, signature, utf8(domain + canonical(body)));
}

async function segments(body: Receipt): Promise<Check> {
  const failed = (detail: string) => check("segments", "failed", detail);
  let at = 0;
  let isBlind = false;
  for (const [place, segment] of body.segments.entries()) {
    const name = `segment ${place + 1} of node ${segment.node}`;
    const fault = faultOf(body, segment, at);
    if (fault) return failed(`${name} ${fault}`);
    const { stages, signature } = segment;
    if (signature !== null) {
      const holds = await segmentHolds(segment);
      if (holds === false) return failed(`${name} is not signed by its node, or was changed`);
      isBlind ||= holds === null;
    }
    const wrong = stages ? await stagesFault(segment, stages) : null;
    if (wrong) return failed(`${name}: ${wrong}`);
    at = segment.to;
  }
  const chain = chainFault(body, at);
  if (chain) return failed(chain);
  if (isBlind) return check("segments", "unchecked", NO_CRYPTO);
  const parts = body.segments.flatMap((one) => [one, ...(one.stages ?? [])]);
  const unsigned = parts.filter((one) => one.signature === null);
  if (unsigned.length > 0) {
    const told = unsigned.map((one) => `node ${one.node}: ${one.reason ?? "no reason given"}`);
    return check("segments", "unchecked", `no signature of ${[...new Set(told)].join("; ")}`);
  }
  const nodes = [...new Set(parts.map((one) => one.node))].join(", ");
  return check("segments", "ok", nodes ? `signed by ${nodes}` : "no output, so no segment");
}

/** Who made a part of an answer, and whether its own signature under that part holds. */
export interface Signer {
  node: string;
  /** Of a pipeline's stage: its layers [from, to). */
  layers: [number, number] | null;
  /** The output ids [from, to) that it is about. */
  ids: [number, number];
  /** Null where this browser cannot tell. */
  holds: boolean | null;
  /** Why there is no signature; null where there is one. */
  unsigned: string | null;
}

/** Everybody who made a part of this answer, in order: of a pipeline each stage. Never throws. */
export function signers(body: Receipt): Promise<Signer[]> {
  const made = body.segments.flatMap((segment) => {
    const ids: [number, number] = [segment.start, segment.to];
    // The last stage of a pipeline is its segment's node: it signed both, and stands there once.
    const parts = segment.stages?.length ? segment.stages : [segment];
    return parts.map(async (part): Promise<Signer> => {
      const layers = "layers" in part ? part.layers : null;
      const who = { node: part.node, layers, ids };
      if (part.signature === null) {
        return { ...who, holds: null, unsigned: part.reason ?? "no reason given" };
      }
      const isLast = part.node === segment.node;
      const held = await Promise.all([
        "layers" in part ? stageHolds(part) : true,
        isLast && segment.signature !== null ? segmentHolds(segment) : true,
      ]);
      const holds = held.includes(false) ? false : held.includes(null) ? null : true;
      return { ...who, holds, unsigned: null };
    });
  });
  return Promise.all(made);
}

function segmentHolds(segment: Segment): Promise<Held> {
  const { stages: _stages, signature, reason: _reason, ...rest } = segment;
  return holdsOf(segment.node, "parhelion/segment/1\0", rest, signature ?? "");
}

function stageHolds(stage: StageSegment): Promise<Held> {
  const { signature, reason: _reason, ...rest } = stage;
  return holdsOf(stage.node, "parhelion/stage/1\0", rest, signature ?? "");
}

function faultOf(body: Receipt, segment: Segment, at: number): string | null {
  if (segment.start !== at || segment.to < segment.start) {
    return `starts at ${segment.start}, not at ${at}`;
  }
  const isAbout =
    segment.job === `job_${body.id.split("_")[1]}` &&
    segment.opening_hash === body.opening_hash &&
    segment.artefact === body.artefact;
  if (!isAbout) return "is about another request or model";
  return segment.ended_at_ms < segment.started_at_ms ? "ends before it starts" : null;
}

function chainFault(body: Receipt, covered: number): string | null {
  if (covered !== body.output_ids) {
    return `segments cover ${covered} of ${body.output_ids} output ids`;
  }
  const last = body.segments.at(-1);
  if (last && last.head !== body.head) return "the last segment's head is not the receipt's";
  if (new Set(body.segments.map((one) => one.ask)).size > 1) {
    return "nodes were asked different things";
  }
  const attempts = body.segments.map((one) => one.attempt);
  const isRising = attempts.every((one, at) => at === 0 || one > (attempts[at - 1] as number));
  return isRising ? null : "attempts do not follow one another";
}

async function stagesFault(segment: Segment, stages: StageSegment[]): Promise<string | null> {
  let layer = 0;
  for (const [place, stage] of stages.entries()) {
    const name = `stage ${place + 1} of node ${stage.node}`;
    if (stage.layers[0] !== layer || stage.layers[1] <= layer) {
      return `${name} starts at layer ${stage.layers[0]}, not at ${layer}`;
    }
    const same = ["job", "attempt", "opening_hash", "artefact", "start", "to", "head"] as const;
    if (same.some((member) => stage[member] !== segment[member])) {
      return `${name} is about another request or stretch`;
    }
    if (stage.signature !== null) {
      const holds = await stageHolds(stage);
      if (holds === false) return `${name} is not signed by its node, or was changed`;
    }
    layer = stage.layers[1];
  }
  return stages.at(-1)?.node === segment.node ? null : "its node is not that of its last stage";
}

function identity(body: Receipt, coordinator: string | null, signature: Check): Check {
  if (coordinator !== null && coordinator !== body.coordinator) {
    return check("identity", "failed", `it names ${body.coordinator}, not ${coordinator}`);
  }
  if (signature.state !== "ok") {
    return check("identity", "unchecked", "its signature was not found to hold");
  }
  if (coordinator === null) {
    const detail = `${body.coordinator} signed; compare that id with one you had from elsewhere`;
    return check("identity", "unchecked", detail);
  }
  return check("identity", "ok", `signed by ${coordinator}, as expected`);
}

// --- with evidence ----------------------------------------------------------------------------

async function opened(body: Receipt, shown: Shown): Promise<[Check, Check]> {
  const without = (why: string): [Check, Check] => [
    check("ids", "unchecked", why),
    check("text", "unchecked", why),
  ];
  if (shown.evidence === undefined || shown.evidence === null) {
    return without(
      "the evidence is kept for 15 minutes after the answer, and is gone or not yours",
    );
  }
  if (!globalThis.crypto?.subtle) return without(NO_CRYPTO);
  let evidence: Evidence;
  try {
    evidence = evidenceFrom(shown.evidence);
  } catch (error) {
    const why = `evidence: ${error instanceof Error ? error.message : String(error)}`;
    return [check("ids", "failed", why), check("text", "unchecked", "the evidence cannot be read")];
  }
  const opening = bytesOfHex(evidence.opening);
  const key = await hmacKey(opening);
  const fault = await idsFault(body, evidence, opening, key);
  const found = `${body.prompt_tokens} prompt ids and ${body.output_ids} output ids are those of the signed chain`;
  const ids = check("ids", fault === null ? "ok" : "failed", fault ?? found);
  return [ids, await textCheck(body, evidence, key, shown.text ?? null)];
}

async function textCheck(
  body: Receipt,
  evidence: Evidence,
  key: CryptoKey,
  text: string | null,
): Promise<Check> {
  const made = hexOf(await mac(key, "text\0", utf8(evidence.text)));
  if (made !== body.text_hmac) {
    return check("text", "failed", "the evidence has another text than the one delivered");
  }
  if (text !== null && text !== evidence.text) {
    return check("text", "failed", "the text on this page is not the one that was delivered");
  }
  const where = text === null ? "characters are those" : "characters on this page are those";
  return check("text", "ok", `${[...evidence.text].length} ${where} that were delivered`);
}

async function idsFault(
  body: Receipt,
  evidence: Evidence,
  opening: Uint8Array,
  key: CryptoKey,
): Promise<string | null> {
  if (evidence.receipt !== body.id) return `this is the evidence of ${evidence.receipt}`;
  const named = await crypto.subtle.digest(
    "SHA-256",
    joined(utf8("parhelion/opening/1\0"), opening),
  );
  if (hexOf(new Uint8Array(named)) !== body.opening_hash) {
    return "the opening is not this receipt's";
  }
  const prompt = packed(evidence.prompt_ids);
  if (hexOf(await mac(key, "prompt\0", prompt)) !== body.prompt_hmac) {
    return "the prompt's ids are not this receipt's";
  }
  if (evidence.prompt_ids.length !== body.prompt_tokens) {
    return `${evidence.prompt_ids.length} prompt ids, ${body.prompt_tokens} billed`;
  }
  if (evidence.output_ids.length !== body.output_ids) {
    return `${evidence.output_ids.length} output ids, ${body.output_ids} on the receipt`;
  }
  const { artefact: digest, max_tokens, params, prompt_hmac, seed } = body;
  const asked = canonical({ digest, max_tokens, params, prompt_hmac, seed });
  const ask = hexOf(await mac(key, "ask\0", utf8(asked)));
  if (body.segments.some((one) => one.ask !== ask)) {
    return "a node was asked something else than the receipt says";
  }
  return headsFault(body, evidence, key, prompt);
}

async function headsFault(
  body: Receipt,
  evidence: Evidence,
  key: CryptoKey,
  prompt: Uint8Array,
): Promise<string | null> {
  const stops = new Map(body.segments.map((one, place) => [one.to, { head: one.head, place }]));
  let head = await mac(key, "start\0", prompt);
  const wrong = (at: number) => {
    const stop = stops.get(at);
    return stop && stop.head !== hexOf(head)
      ? `the ids up to ${at} are not those of segment ${stop.place + 1}`
      : null;
  };
  let fault = wrong(0);
  for (const [at, id] of evidence.output_ids.entries()) {
    if (fault) return fault;
    head = await mac(key, "next\0", joined(head, packed([id])));
    fault = wrong(at + 1);
  }
  return fault ?? (hexOf(head) === body.head ? null : "the output ids are not this receipt's");
}

function packed(ids: number[]): Uint8Array<ArrayBuffer> {
  const made = new DataView(new ArrayBuffer(ids.length * 4));
  ids.forEach((id, at) => made.setUint32(at * 4, id, true));
  return new Uint8Array(made.buffer);
}

function hmacKey(opening: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  const kind = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.importKey("raw", opening, kind, false, ["sign"]);
}

async function mac(key: CryptoKey, tag: string, data: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, joined(utf8(tag), data)));
}
