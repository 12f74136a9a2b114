// A pool at work, for pictures of it: real prompts behind it, and one that streams meanwhile.

import type { Pool } from "./stack";
import { until } from "./stack";

/** Credits for all that is asked here, many times over. */
const GRANT_MICRO = "50000000";
/** A minute of the chart: enough to look like one. */
const POINTS = 6;
/** So many at once, wave after wave: a chart that goes up and down. */
const WAVES = [1, 3, 2, 5, 1, 4];
/** The model's ends of text: without them an answer is as long as it may be, whatever it says. */
const NEVER_ENDS = { "0": -100, "2": -100 };

/** Ask until the chart has a minute to show; a key that may go on asking. */
export async function work(pool: Pool): Promise<string> {
  const key = await pool.key(GRANT_MICRO, "a program");
  for (let wave = 0; (await points(pool)) < POINTS; wave += 1) {
    const many = WAVES[wave % WAVES.length]!;
    const asking = Array.from({ length: many }, (_, at) => ask(pool, key, 80 + 60 * at));
    await Promise.all(asking);
  }
  return key;
}

/** An answer that streams until it is let go of, if it was not whole before. */
export function streaming(pool: Pool, key: string): () => Promise<void> {
  const away = new AbortController();
  const asking = ask(pool, key, 1500, away.signal).catch((error: Error) => {
    if (error.name !== "AbortError") throw error;
  });
  return async () => {
    away.abort();
    await asking;
    await until(async () => (await pool.get<{ running: number }>("/v1/console")).running === 0);
  };
}

async function points(pool: Pool): Promise<number> {
  const history = await pool.get<{ points: unknown[] }>("/v1/console/history?minutes=60");
  return history.points.length;
}

async function ask(
  pool: Pool,
  key: string,
  max_tokens: number,
  signal: AbortSignal | null = null,
): Promise<void> {
  const messages = [{ role: "user", content: "Tell a story about one peculiar lighthouse." }];
  const response = await fetch(`${pool.api}/v1/chat/completions`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${key}`,
    },
    body: JSON.stringify({
      messages,
      max_tokens,
      stream: true,
      logit_bias: NEVER_ENDS,
    }),
    signal,
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  await response.text();
}
