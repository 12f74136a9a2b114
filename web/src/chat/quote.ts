// What the next message can cost at most, asked of the server while a person writes.
import { Refused, post } from "../api/http";
import { credentials } from "../api/key";
import type { Quote } from "../api/shapes";
import { money } from "../parts/amount";

export const PAUSE_MS = 450;
/** So long after the last key: each question is tokenised, which costs the pool something. */

export type Quoted =
  | { state: "none" }
  | { state: "known"; quote: Quote }
  | { state: "unknown"; why: string }
  | { state: "refused"; why: string; hint: string };

export async function quoted(body: string): Promise<Quoted> {
  try {
    return {
      state: "known",
      quote: await post<Quote>("/v1/quote", JSON.parse(body), credentials()),
    };
  } catch (error) {
    return unquoted(error);
  }
}

/** Why there is no quote: a prompt that would be refused, or somebody who cannot tell. */
export function unquoted(error: unknown): Quoted {
  if (!(error instanceof Refused)) return { state: "unknown", why: String(error) };
  if (error.status === 404 && error.code !== "model_not_found") {
    return { state: "unknown", why: "this coordinator makes no quotes" };
  }
  if (error.status === 400 || error.code === "model_not_found")
    return { state: "refused", why: error.message, hint: error.hint };
  return { state: "unknown", why: error.message };
}

/** "at most 0.0038 USDC", and where that comes from. */
export function words(quoted: Quoted): { text: string; title: string } {
  switch (quoted.state) {
    case "none":
      return { text: "", title: "" };
    case "unknown":
      return { text: "cost unknown", title: quoted.why };
    case "refused":
      return { text: "would be refused", title: quoted.why };
    case "known": {
      const { cost, asset, prompt_tokens, max_tokens } = quoted.quote;
      const tokens = `${prompt_tokens.toLocaleString("en")} prompt tokens and at most ${max_tokens.toLocaleString("en")} of answer, asked at /v1/quote`;
      if (BigInt(cost) === 0n) return { text: "free", title: tokens };
      return { text: `at most ${money(cost, asset)}`, title: tokens };
    }
  }
}
