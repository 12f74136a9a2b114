// One answer, from the request to its last event; what came before a fault is kept.
import { events } from "../api/events";
import { Refused, send, type ProblemBody } from "../api/http";
import { credentials } from "../api/key";
import type { Usage } from "../api/shapes";

export interface Outcome {
  state: "done" | "stopped" | "cut" | "failed";
  finish: string | null;
  error: string | null;
  hint: string | null;
  code: string | null;
  retry_after_s: number | null;
  request: string | null;
  completion: string | null;
  model: string | null;
  usage: Usage | null;
  first_token_ms: number | null;
  /** Of this stream alone, from its first token to its last. */
  tokens_per_s: number | null;
}

export interface Watcher {
  /** More of the text came. */
  add(piece: string): void;
  /** The request has a name, and peers that make its answer, before any text. */
  begun(request: string | null, nodes: string[]): void;
  /** It goes on at these peers, in the middle. */
  moved?(nodes: string[]): void;
}

interface ChunkBody {
  id?: string;
  model?: string;
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: Usage | null;
  error?: ProblemBody;
}

/** Before the peers that make an answer: a header's name, and how a comment of a stream begins. */
const NODES = "x-parhelion-nodes";

const CUT = {
  error: "The stream ended before the answer did.",
  hint: "what came is kept; regenerate it, or ask the model to go on",
};

/** Ask for an answer. Never throws: every end is an outcome. */
export async function ask(
  body: string,
  watcher: Watcher,
  signal: AbortSignal,
  now_ms: () => number = () => performance.now(),
  path = "/v1/chat/completions",
  by: Record<string, string> = credentials(),
): Promise<Outcome> {
  const reading = new Reading(watcher, now_ms);
  try {
    const response = await send(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...by },
      body,
      signal,
    });
    reading.begin(response.headers);
    if (!response.body) return reading.end("cut", CUT);
    for await (const data of events(response.body, (said) => reading.hear(said))) {
      if (data === "[DONE]") return reading.end("done");
      const problem = reading.take(JSON.parse(data) as ChunkBody);
      if (problem) return reading.refused(problem);
    }
    return reading.end("cut", CUT);
  } catch (error) {
    if (signal.aborted) return reading.end("stopped");
    if (error instanceof Refused) {
      reading.begin(error.headers);
      reading.outcome.retry_after_s = error.retryAfterS;
      return reading.refused(error);
    }
    // A connection that broke, or an event that is no JSON.
    return reading.end("cut", CUT);
  }
}

/** What one stream said so far. */
class Reading {
  readonly outcome: Outcome = {
    state: "done",
    finish: null,
    error: null,
    hint: null,
    code: null,
    retry_after_s: null,
    request: null,
    completion: null,
    model: null,
    usage: null,
    first_token_ms: null,
    tokens_per_s: null,
  };
  readonly #watcher: Watcher;
  readonly #now_ms: () => number;
  readonly #asked_ms: number;
  #first_ms: number | null = null;
  #last_ms = 0;

  constructor(watcher: Watcher, now_ms: () => number) {
    this.#watcher = watcher;
    this.#now_ms = now_ms;
    this.#asked_ms = now_ms();
  }

  begin(headers: Headers): void {
    this.outcome.request = headers.get("x-request-id");
    this.#watcher.begun(this.outcome.request, peersOf(headers.get(NODES) ?? ""));
  }

  hear(comment: string): void {
    if (comment.startsWith(`${NODES} `))
      this.#watcher.moved?.(peersOf(comment.slice(NODES.length)));
  }

  /** Take one chunk; the problem that it reports, if it does. */
  take(chunk: ChunkBody): ProblemBody | null {
    if (chunk.error) return chunk.error;
    if (typeof chunk.id === "string") this.outcome.completion = chunk.id;
    if (typeof chunk.model === "string") this.outcome.model = chunk.model;
    if (chunk.usage) this.outcome.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason) this.outcome.finish = choice.finish_reason;
    const piece = choice?.delta?.content;
    if (typeof piece === "string" && piece !== "") {
      this.#last_ms = this.#now_ms();
      this.#first_ms ??= this.#last_ms;
      this.#watcher.add(piece);
    }
    return null;
  }

  refused(problem: { message: string; code: string; hint: string }): Outcome {
    this.outcome.code = problem.code;
    return this.end("failed", { error: problem.message, hint: problem.hint });
  }

  end(state: Outcome["state"], why?: { error: string; hint: string }): Outcome {
    const { outcome } = this;
    outcome.state = state;
    outcome.error = why?.error ?? null;
    outcome.hint = why?.hint ?? null;
    if (this.#first_ms === null) return outcome;
    outcome.first_token_ms = this.#first_ms - this.#asked_ms;
    outcome.tokens_per_s = speed(outcome.usage, this.#last_ms - this.#first_ms);
    return outcome;
  }
}

function peersOf(list: string): string[] {
  const peers = list.split(",").map((one) => one.trim());
  return peers.filter((one) => one !== "");
}

/** Tokens a second between the first and the last; null where two points make no speed. */
export function speed(usage: Usage | null, span_ms: number): number | null {
  const tokens = usage?.completion_tokens ?? 0;
  return tokens < 3 || span_ms <= 0 ? null : ((tokens - 1) / span_ms) * 1000;
}
