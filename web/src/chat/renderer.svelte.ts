// The markdown renderer, loaded when the first answer is there: the first load does without it.
import type { SafeHtml } from "./markdown";

type Render = (markdown: string) => SafeHtml;

class Renderer {
  /** Null until it is loaded: text stands as it is until then. */
  render = $state.raw<Render | null>(null);
  #asked = false;

  load(): void {
    if (this.#asked) return;
    this.#asked = true;
    import("./markdown").then(
      ({ rendered }) => (this.render = rendered),
      () => (this.#asked = false), // The text is there to read; the next answer asks again.
    );
  }
}

export const renderer = new Renderer();
