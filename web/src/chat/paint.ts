// When to draw a growing answer: with the screen's frames, and never so often that it costs much.

const LEAST_MS = 33;
/** Thirty times a second is as smooth as text can be read. */
const SHARE = 25;
/** Drawing takes at most one part in so many of the time, however long the last block is. */

export class Painter {
  readonly #draw: () => void;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #frame: number | null = null;
  #cost_ms = 0;
  #last_ms = -Infinity;

  constructor(draw: () => void) {
    this.#draw = draw;
  }

  /** There is something new to draw. */
  ask(): void {
    if (this.#timer !== null || this.#frame !== null) return;
    const due_ms = this.#last_ms + Math.max(LEAST_MS, this.#cost_ms * SHARE);
    const wait_ms = Math.max(0, due_ms - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#frame = requestAnimationFrame(() => this.now());
    }, wait_ms);
  }

  /** Draw at once. */
  now(): void {
    this.cancel();
    const begun_ms = performance.now();
    this.#draw();
    this.#last_ms = performance.now();
    this.#cost_ms = this.#last_ms - begun_ms;
  }

  cancel(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#timer = null;
    this.#frame = null;
  }
}
