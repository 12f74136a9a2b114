// How the pool stands: its health, what it is set up to be, and what it still lacks; asked again
// and again, because joining takes a while and no feed tells it.

import { untrack } from "svelte";
import type { Health, Setup } from "../api/shapes";
import { operator } from "./operator.svelte";

/** Two small reads; quick enough to watch nodes join, slow enough to cost nothing. */
const AGAIN_MS = 2500;

export class Standing {
  health = $state.raw<Health | null>(null);
  setup = $state.raw<Setup | null>(null);
  /** Why the latest read failed; what stands is older then. */
  error = $state.raw<unknown>(null);
  readonly #ticker: ReturnType<typeof setInterval>;
  #isAsking = false;

  constructor() {
    // Made in effects, which must not begin anew whenever the admin key comes or goes.
    untrack(() => void this.load());
    this.#ticker = setInterval(() => {
      if (!document.hidden) void this.load();
    }, AGAIN_MS);
  }

  async load(): Promise<void> {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      this.setup = await operator.get<Setup>("/v1/setup");
      // 503 has the same body, and means that no prompt would be served now.
      const answer = await fetch("/health");
      this.health = (await answer.json()) as Health;
      this.error = null;
    } catch (caught) {
      this.error = caught;
    } finally {
      this.#isAsking = false;
    }
  }

  close(): void {
    clearInterval(this.#ticker);
  }
}
