// What the pool offers and what this person has to spend, read again when it may have changed.
import { DEADLINE_MS, get, Refused } from "../api/http";
import { credentials, pastedKey } from "../api/key";
import type { Balance, Health, Model, Pipeline, Pool as Told } from "../api/shapes";

import { shortName, stateOf } from "./offers";

const FRESH_MS = 15_000;
/** Between two looks while the page is seen; an answer's end looks at once. */

export class Pool {
  models = $state.raw<Model[]>([]);
  nodes = $state.raw<Told["nodes"]>([]);
  pipelines = $state.raw<Pipeline[]>([]);
  balance = $state.raw<Balance | null>(null);
  /** True once the server said that nobody is signed in here. */
  isStranger = $state(false);
  /** Who is a stranger now was signed in here before. */
  hasEnded = $state(false);
  isLocal = $state(false);
  problem = $state<string | null>(null);
  /** Names of nodes also after they have left. */
  readonly names = new Map<string, string>();
  #timer: ReturnType<typeof setInterval> | null = null;

  start(): () => void {
    void this.look();
    const seen = () => {
      if (!document.hidden) void this.look();
    };
    document.addEventListener("visibilitychange", seen);
    this.#timer = setInterval(seen, FRESH_MS);
    return () => {
      document.removeEventListener("visibilitychange", seen);
      if (this.#timer !== null) clearInterval(this.#timer);
    };
  }

  async look(): Promise<void> {
    await Promise.all([this.#offers(), this.purse(), this.#health()]);
  }

  /** The model that was chosen, the pool's first where none was; null where it is not there. */
  modelOf(id: string): Model | null {
    // One that the pool has no more is never swapped for another.
    return (id === "" ? this.models[0] : this.models.find((one) => one.id === id)) ?? null;
  }

  /** Why a message to this model would be refused now; null where it would not, or is not known. */
  whyNot(id: string): string | null {
    const model = this.modelOf(id);
    if (model?.available === false)
      return `${shortName(model.id)} is ${stateOf(model, this.nodes).text}.`;
    const isGone = !model && id !== "" && this.models.length > 0;
    return isGone ? `${shortName(id)} is not in this pool any more.` : null;
  }

  /** Whether a message to this model has to be paid, and nobody who could is signed in. */
  asksPayer(id: string): boolean {
    const model = this.modelOf(id);
    return this.isStranger && !(model && isFree(model));
  }

  async #offers(): Promise<void> {
    try {
      const [models, nodes] = await Promise.all([
        get<{ data: Model[] }>("/v1/models"),
        get<{ data: Told["nodes"]; pipelines: Pipeline[] }>("/v1/nodes"),
      ]);
      this.models = models.data;
      this.nodes = nodes.data;
      this.pipelines = nodes.pipelines;
      for (const one of nodes.data) this.names.set(one.peer, one.name);
      this.problem = null;
    } catch (error) {
      this.problem = error instanceof Refused ? `${error.message} ${error.hint}` : String(error);
    }
  }

  /** The balance alone. */
  async purse(): Promise<void> {
    try {
      this.balance = await get<Balance>("/v1/credits/balance", credentials());
      this.isStranger = this.hasEnded = false;
    } catch (error) {
      const status = error instanceof Refused ? error.status : 0;
      // The first refusal takes the cookie away: those behind it know nothing of a session.
      if (status === 401 && pastedKey() === null) {
        const isOver = error instanceof Refused && error.code === "invalid_session";
        this.hasEnded ||= isOver || this.balance !== null;
      }
      // Who is not asked for money, or cannot be reached, has no balance to show.
      this.balance = null;
      this.isStranger = [401, 402, 403].includes(status);
    }
  }

  async #health(): Promise<void> {
    try {
      const response = await fetch("/health", { signal: AbortSignal.timeout(DEADLINE_MS) });
      this.isLocal = ((await response.json()) as Health).local;
    } catch {
      // The offers, asked at the same time, say that the coordinator does not answer.
    }
  }
}

/** Whether a model costs nothing, so that nobody needs a key for it. */
export function isFree(model: Model): boolean {
  return model.rates.every((rate) => BigInt(rate.prompt) + BigInt(rate.completion) === 0n);
}
