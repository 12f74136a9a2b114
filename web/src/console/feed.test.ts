// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Feed } from "./feed.svelte";

const QUIET_MS = 5000;

/** What a browser's EventSource does, by hand. */
class Line {
  static readonly OPEN = 1;
  static readonly CLOSED = 2;
  static all: Line[] = [];
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;

  constructor() {
    Line.all.push(this);
  }

  static get last(): Line {
    return Line.all.at(-1) as Line;
  }

  open(): void {
    this.readyState = Line.OPEN;
    this.onopen?.();
  }

  say(what: unknown): void {
    this.onmessage?.({ data: JSON.stringify(what) });
  }

  close(): void {
    this.readyState = Line.CLOSED;
  }
}

let feed: Feed<number>;
let heard: number[];
let polls: number;
let isAway: boolean;

/** What a plain GET of the same is answered: the number of the asking, from a hundred on. */
async function poll(): Promise<number> {
  polls += 1;
  if (isAway) throw new Error("away");
  return 100 + polls;
}

function follow(quiet_ms: number | null): void {
  feed = new Feed("/feed", quiet_ms, (event) => heard.push(event), poll);
  Line.last.open();
}

function hide(isHidden: boolean): void {
  Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", Line);
  [Line.all, heard, polls, isAway] = [[], [], 0, true];
});

afterEach(() => {
  feed.close();
  hide(false);
  vi.useRealTimers();
});

describe("a feed", () => {
  it("that speaks each second is stale when it is silent, and fresh with the next word", () => {
    follow(QUIET_MS);
    Line.last.say(1);
    vi.advanceTimersByTime(QUIET_MS + 2000);
    expect(feed.staleSince_ms).not.toBeNull();
    Line.last.say(2);
    expect(feed.staleSince_ms).toBeNull();
    expect(heard).toEqual([1, 2]);
  });

  it("that only tells changes is not stale by silence, and is by a line that broke", () => {
    follow(null);
    vi.advanceTimersByTime(3_600_000);
    expect(feed.staleSince_ms).toBeNull();
    Line.last.readyState = 0;
    vi.advanceTimersByTime(4000);
    expect(feed.staleSince_ms).not.toBeNull();
  });

  it("that was refused is asked for again, though a browser would give up", () => {
    follow(null);
    Line.last.close();
    vi.advanceTimersByTime(7000);
    expect(Line.all).toHaveLength(2);
    Line.last.open();
    vi.advanceTimersByTime(2000);
    expect(feed.staleSince_ms).toBeNull();
  });

  it("that has no place for us is asked for now and then, and is not stale by it", async () => {
    isAway = false;
    follow(QUIET_MS);
    Line.last.close();
    await vi.advanceTimersByTimeAsync(25_000);
    expect([feed.isCrowded, feed.staleSince_ms]).toEqual([true, null]);
    expect(heard.length).toBeGreaterThanOrEqual(4);
    expect(heard.length).toBeLessThanOrEqual(6);
    expect(Line.all).toHaveLength(1); // Who reads stays for minutes: no use in asking each time.
    await vi.advanceTimersByTimeAsync(10_000);
    expect(Line.all).toHaveLength(2);
    Line.last.open();
    Line.last.say(1);
    expect([feed.isCrowded, heard.at(-1)]).toEqual([false, 1]);
    const asked = polls;
    await vi.advanceTimersByTimeAsync(4000);
    expect(polls).toBe(asked);
  });

  it("that is crowded and then away is stale, and is asked for again soon", async () => {
    isAway = false;
    follow(null);
    Line.last.close();
    await vi.advanceTimersByTimeAsync(8000);
    expect(feed.isCrowded).toBe(true);
    isAway = true;
    await vi.advanceTimersByTimeAsync(16_000);
    expect(feed.isCrowded).toBe(false);
    expect(feed.staleSince_ms).not.toBeNull();
    expect(Line.all.length).toBeGreaterThan(1);
  });

  it("whose line was lost without a word is dialled anew", () => {
    follow(QUIET_MS);
    vi.advanceTimersByTime(20_000);
    expect(Line.all).toHaveLength(2);
  });

  it("takes no connection while nobody sees the page", () => {
    follow(QUIET_MS);
    hide(true);
    expect(Line.last.readyState).toBe(Line.CLOSED);
    vi.advanceTimersByTime(60_000);
    expect(Line.all).toHaveLength(1);
    hide(false);
    expect(Line.all).toHaveLength(2);
    expect(feed.staleSince_ms).toBeNull();
  });

  it("is shut for good when it is closed", () => {
    follow(QUIET_MS);
    feed.close();
    hide(false);
    vi.advanceTimersByTime(60_000);
    expect(Line.all).toHaveLength(1);
  });
});
