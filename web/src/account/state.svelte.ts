// Who is signed in here, and what they have.

import { credentials, keepKey, pastedKey } from "../api/key";
import { get, health, post, Refused } from "../api/http";
import type { Balance, Network, Session } from "../api/shapes";

const TIMER_LIMIT_MS = 2 ** 31 - 1;
/** Browsers take a longer wait for none at all. */

/** What this browser is to the pool; `load` asks again. */
export class Account {
  session = $state<Session | null>(null);
  balance = $state<Balance | null>(null);
  networks = $state<Network[]>([]);
  isLocal = $state(false);
  isLoaded = $state(false);
  /** There was a session, and it is over. */
  hasEnded = $state(false);
  error = $state<unknown>(null);

  get hasKey(): boolean {
    return pastedKey() !== null;
  }

  async load(): Promise<void> {
    this.error = null;
    try {
      const [session, balance, networks, pool] = await Promise.all([
        this.hasKey ? null : this.#session(),
        orNull(get<Balance>("/v1/credits/balance", credentials())),
        orNull(get<{ data: Network[] }>("/v1/chain")),
        health(),
      ]);
      this.session = session?.tier ? null : session;
      this.balance = balance;
      this.networks = networks?.data ?? [];
      this.isLocal = pool.local;
    } catch (error) {
      this.error = error;
    }
    this.isLoaded = true;
  }

  async signOut(): Promise<void> {
    keepKey(null);
    this.error = null;
    try {
      if (this.session) await post("/v1/session", {}, {}, "DELETE");
    } catch (error) {
      this.error = error;
      return;
    }
    this.hasEnded = false;
    await this.load();
  }

  /** Whether this refusal means that nobody is signed in any more: the page then says so. */
  isOver(error: unknown): boolean {
    const isOver = error instanceof Refused && error.status === 401 && this.balance !== null;
    if (isOver) {
      this.hasEnded = true;
      void this.load();
    }
    return isOver;
  }

  /** Ask again when the session ends, and when the person comes back to this tab. */
  watch(): () => void {
    const left_ms = (this.session?.expires_at_ms ?? Infinity) - Date.now();
    const timer =
      left_ms < TIMER_LIMIT_MS ? setTimeout(() => void this.load(), Math.max(left_ms, 0)) : 0;
    const seen = (): void => {
      if (document.visibilityState === "visible" && this.balance) void this.load();
    };
    document.addEventListener("visibilitychange", seen);
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }

  async #session(): Promise<Session | null> {
    try {
      const session = await get<Session>("/v1/session");
      this.hasEnded = false;
      return session;
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) throw error;
      // Its cookie is gone with this answer.
      if (error.code !== "missing_credentials") this.hasEnded = true;
      return null;
    }
  }
}

/** Nothing there, or nobody signed in, is an answer and no error. */
async function orNull<T>(asking: Promise<T>): Promise<T | null> {
  try {
    return await asking;
  } catch (error) {
    if (error instanceof Refused && [401, 402, 403, 404].includes(error.status)) return null;
    throw error;
  }
}
