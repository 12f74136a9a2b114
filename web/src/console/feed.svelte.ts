// A feed of server-sent events, and since when nothing came: figures without a feed are stale.

const TICK_MS = 1000;

/** A feed that broke is called stale after this: a coordinator that answers is back by then. */
const BROKEN_MS = 2000;

/** After a refusal (503: too many read) the browser gives up for good; we ask again. */
const AGAIN_MS = 5000;

/** A feed that should speak each second and is silent for so long has lost its line: dial anew. */
const REDIAL_MS = 15_000;

/**
 * Reads `path` until `close`, and comes back by itself. While nobody sees the page it is shut: a
 * browser has six connections to a server, and tabs in the background must not take them all.
 */
export class Feed<T> {
  /** Since when nothing came, in ms; null while it is fresh. */
  staleSince_ms = $state<number | null>(null);
  heard_ms = $state<number | null>(null);
  readonly #path: string;
  readonly #quiet_ms: number | null;
  readonly #take: (event: T) => void;
  readonly #ticker: ReturnType<typeof setInterval>;
  #source: EventSource | null = null;
  /** When it last was open, or was dialled. */
  #alive_ms = 0;
  #dialled_ms = 0;

  /** `quiet_ms`: how long silence is no sign of anything; null where a feed only tells changes. */
  constructor(path: string, quiet_ms: number | null, take: (event: T) => void) {
    [this.#path, this.#quiet_ms, this.#take] = [path, quiet_ms, take];
    this.redial();
    this.#ticker = setInterval(() => this.#look(), TICK_MS);
    document.addEventListener("visibilitychange", this.#seen);
  }

  /** Begin anew, as after a line that was lost without a word. */
  redial(): void {
    this.#source?.close();
    this.#alive_ms = this.#dialled_ms = Date.now();
    const source = new EventSource(this.#path);
    source.onopen = () => {
      this.heard_ms = Date.now();
    };
    source.onmessage = (event: MessageEvent<string>) => {
      const told = JSON.parse(event.data) as T; // What cannot be read is nothing that was heard.
      this.heard_ms = Date.now();
      this.staleSince_ms = null;
      this.#take(told);
    };
    this.#source = source;
  }

  readonly #seen = (): void => {
    if (!document.hidden) return this.redial();
    this.#source?.close();
    this.#source = null;
  };

  #look(): void {
    if (this.#source === null) return;
    const now_ms = Date.now();
    const isOpen = this.#source.readyState === EventSource.OPEN;
    if (isOpen) this.#alive_ms = now_ms;
    const last_ms = Math.max(this.heard_ms ?? 0, this.#dialled_ms);
    const isSilent = this.#quiet_ms !== null && now_ms - last_ms > this.#quiet_ms;
    const isBroken = now_ms - this.#alive_ms > BROKEN_MS;
    if (isSilent || isBroken) this.staleSince_ms ??= this.heard_ms ?? last_ms;
    else if (isOpen) this.staleSince_ms = null;
    const isRefused = this.#source.readyState === EventSource.CLOSED;
    const isLost = isOpen && this.#quiet_ms !== null && now_ms - last_ms > REDIAL_MS;
    if ((isRefused && now_ms - this.#dialled_ms > AGAIN_MS) || isLost) this.redial();
  }

  close(): void {
    clearInterval(this.#ticker);
    document.removeEventListener("visibilitychange", this.#seen);
    this.#source?.close();
    this.#source = null;
  }
}
