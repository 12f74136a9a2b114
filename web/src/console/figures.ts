// What the console shows of the pool at work (GET /v1/console), and how it is written.

export interface Answer {
  request: string;
  model: string;
  nodes: string[];
  tokens: number;
  tokens_per_s: number | null;
  age_s: number;
}

export interface Figures {
  at_ms: number;
  models: { id: string; nodes: number; available: boolean }[];
  streaming: Answer[];
  requests_per_s: number | null;
  tokens_per_s: number | null;
  ttft_p50_s: number | null;
  ttft_p95_s: number | null;
  queue: number | null;
  running: number | null;
  nodes_tokens_per_s: number | null;
  window_s: number;
}

export const UNKNOWN = "unknown";

/** A number with so many places; what is null is unknown, never 0. */
export function figure(value: number | null | undefined, places = 1): string {
  return value == null ? UNKNOWN : value.toFixed(places);
}

/** Bytes as a person reads them. */
export function bytes(value: number | null | undefined): string {
  if (value == null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = value;
  for (; left >= 1024 && at < units.length - 1; at += 1) left /= 1024;
  return `${left.toFixed(left < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
}

/** Seconds as a person reads them: "850 ms", "1.2 s". */
export function seconds(value: number | null | undefined): string {
  if (value == null) return UNKNOWN;
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

/** How long ago: "12 s", "3 min", "2 h". */
export function ago(from_ms: number, now_ms: number): string {
  const s = Math.max(0, Math.round((now_ms - from_ms) / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
}
