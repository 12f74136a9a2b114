// Requests to the API of this very origin, and its refusals as errors with code and hint.

import type { Health } from "./shapes";

export const DEADLINE_MS = 20_000;
/** A read that takes longer is told as one that failed; answers of models have no such end. */

/** What every error body of the API holds; `code` is stable, `hint` says what to do. */
export interface ProblemBody {
  message: string;
  type: string;
  code: string;
  param?: string | null;
  hint: string;
}

/** The API said no, or could not be asked at all (`status` 0, `code` "offline"). */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string;
  readonly headers: Headers;

  constructor(status: number, problem: ProblemBody, headers = new Headers()) {
    super(problem.message);
    this.name = "Refused";
    this.status = status;
    this.code = problem.code;
    this.hint = problem.hint;
    this.headers = headers;
  }

  /** Seconds after which the same may work; null where nobody said. */
  get retryAfterS(): number | null {
    const told = Number(this.headers.get("retry-after") ?? Number.NaN);
    return Number.isFinite(told) ? told : null;
  }
}

const OFFLINE: ProblemBody = {
  message: "The coordinator does not answer.",
  type: "server_error",
  code: "offline",
  hint: "see whether it still runs, then try again",
};

/** Send a request; an answer that is no 2xx is thrown as Refused. An abort stays an AbortError. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    // A pasted key speaks for itself: beside the cookie of another account it would be refused.
    const isKeyed = new Headers(init.headers).has("authorization");
    response = await fetch(path, { credentials: isKeyed ? "omit" : "same-origin", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Refused(0, OFFLINE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** What an answer that is no 2xx says. */
export async function refusal(response: Response): Promise<Refused> {
  const unknown = { ...OFFLINE, message: `The answer was ${response.status}.`, code: "unknown" };
  try {
    const body = (await response.json()) as { error?: ProblemBody };
    return new Refused(response.status, body.error ?? unknown, response.headers);
  } catch {
    return new Refused(response.status, unknown, response.headers);
  }
}

/** What the pool says of itself: 503 has the same body, and means that no prompt is served now. */
export async function health(): Promise<Health> {
  try {
    const response = await fetch("/health", { signal: AbortSignal.timeout(DEADLINE_MS) });
    return (await response.json()) as Health;
  } catch {
    throw new Refused(0, OFFLINE);
  }
}

/** GET a JSON body. */
export async function get<T>(path: string, headers: HeadersInit = {}): Promise<T> {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  return read<T>(path, { headers, signal });
}

/** POST (or another method) a JSON body, and read one. */
export async function post<T>(
  path: string,
  body: unknown = {},
  headers: HeadersInit = {},
  method = "POST",
): Promise<T> {
  return read<T>(path, {
    method,
    headers: { "content-type": "application/json", ...headers },
    body: method === "DELETE" ? null : JSON.stringify(body),
    signal: AbortSignal.timeout(DEADLINE_MS),
  });
}

async function read<T>(path: string, init: RequestInit): Promise<T> {
  try {
    return (await (await send(path, init)).json()) as T;
  } catch (error) {
    if (error instanceof DOMException && error.name === "TimeoutError") {
      throw new Refused(0, { ...OFFLINE, message: "The coordinator took too long." });
    }
    throw error;
  }
}
