// A feed of server-sent events, and since when nothing came: figures without a feed are stale.

const TICK_MS = 1000;

/** A feed that broke is called stale after this: a coordinator that answers is back by then. */
const BROKEN_MS = 2000;

/** After a refusal the browser gives up for good; we ask again. */
const AGAIN_MS = 5000;

/** While too many read the feed (503) its present is asked for so often instead, by a plain GET. */
const POLL_MS = 5000;

/** Those who read stay for minutes: the API says so with Retry-After, which a page cannot read. */
const SEAT_MS = 30_000;

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
  /** There is no place at the feed, and its present is asked for now and then. */
  isCrowded = $state(false);
  readonly #path: string;
  readonly #quiet_ms: number | null;
  readonly #take: (event: T) => void;
  readonly #poll: () => Promise<T>;
  readonly #ticker: ReturnType<typeof setInterval>;
  #source: EventSource | null = null;
  /** When it last was open, or was dialled. */
  #alive_ms = 0;
  #dialled_ms = 0;
  #polled_ms = 0;

  /**
   * `quiet_ms`: how long silence is no sign of anything; null where a feed only tells changes.
   * `poll` asks for what the feed begins with, where there is no place at it.
   */
  constructor(
    path: string,
    quiet_ms: number | null,
    take: (event: T) => void,
    poll: () => Promise<T>,
  ) {
    [this.#path, this.#quiet_ms, this.#take, this.#poll] = [path, quiet_ms, take, poll];
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
      this.isCrowded = false;
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
    const slack_ms = this.isCrowded ? 2 * POLL_MS : 0;
    const isSilent = this.#quiet_ms !== null && now_ms - last_ms > this.#quiet_ms + slack_ms;
    const isBroken = now_ms - this.#alive_ms > BROKEN_MS + slack_ms;
    if (isSilent || isBroken) this.staleSince_ms ??= this.heard_ms ?? last_ms;
    else if (isOpen) this.staleSince_ms = null;
    const isRefused = this.#source.readyState === EventSource.CLOSED;
    const isLost = isOpen && this.#quiet_ms !== null && now_ms - last_ms > REDIAL_MS;
    const again_ms = this.isCrowded ? SEAT_MS : AGAIN_MS;
    if ((isRefused && now_ms - this.#dialled_ms > again_ms) || isLost) this.redial();
    else if (isRefused && now_ms - this.#polled_ms >= POLL_MS) void this.#instead();
  }

  /** Ask for the present; who answers is there, and has no place at the feed. */
  async #instead(): Promise<void> {
    this.#polled_ms = Infinity; // One at a time, however long it takes.
    const source = this.#source;
    let told: T;
    try {
      told = await this.#poll();
    } catch {
      this.isCrowded = false; // Not crowded but away, which the page says as of any line that broke.
      return;
    } finally {
      this.#polled_ms = Date.now();
    }
    if (source !== this.#source) return;
    this.isCrowded = true;
    this.heard_ms = this.#alive_ms = Date.now();
    this.staleSince_ms = null;
    this.#take(told);
  }

  close(): void {
    clearInterval(this.#ticker);
    document.removeEventListener("visibilitychange", this.#seen);
    this.#source?.close();
    this.#source = null;
  }
}
