// The chat page as a person uses it, for the tests of the chat.

import type { Browser, Locator, Page } from "playwright-core";
import { Watched } from "./browser";
import type { Pool } from "./stack";

const SLOW_MS = 20_000;
/** For one step of a page on a busy machine. */

const ANSWER_MS = 60_000;
/** For a whole answer: a slow machine makes ten tokens a second. */

/** What a person chose before, as the page keeps it. */
export interface Kept {
  key?: string;
  /** Peer id of the node that answers. */
  node?: string;
  elsewhere?: boolean;
  [setting: string]: unknown;
}

export class Chat {
  readonly page: Page;
  readonly watched: Watched;

  private constructor(watched: Watched) {
    this.watched = watched;
    this.page = watched.page;
    this.page.setDefaultTimeout(SLOW_MS);
  }

  /** The page at a browser of its own, with what was chosen before. */
  static async open(
    browser: Browser,
    pool: Pool,
    { key, ...settings }: Kept = {},
    more: Parameters<Browser["newContext"]>[0] = {},
  ): Promise<Chat> {
    return Chat.#at(await Watched.open(browser, more), pool, key ?? "", settings);
  }

  /** The same browser's next tab: what it keeps is shared, and the key is pasted there too. */
  static async beside(other: Chat, pool: Pool, key: string): Promise<Chat> {
    return Chat.#at(await Watched.beside(other.watched), pool, key, {});
  }

  static async #at(
    watched: Watched,
    pool: Pool,
    key: string,
    settings: Record<string, unknown>,
  ): Promise<Chat> {
    const chat = new Chat(watched);
    await chat.page.addInitScript(
      ({ key, settings }) => {
        if (key && !sessionStorage.getItem("parhelion.key")) {
          sessionStorage.setItem("parhelion.key", key);
        }
        if (settings !== "{}" && !localStorage.getItem("parhelion.chat.settings")) {
          localStorage.setItem("parhelion.chat.settings", settings);
        }
      },
      { key, settings: JSON.stringify(settings) },
    );
    await chat.page.goto(pool.web);
    // The model's name stands there once the pool was asked.
    await chat.page.locator(".pick .dot.ready").waitFor();
    return chat;
  }

  get message(): Locator {
    return this.page.getByRole("textbox", { name: "Message", exact: true });
  }

  get answers(): Locator {
    return this.page.getByRole("article", { name: "Answer" });
  }

  get questions(): Locator {
    return this.page.getByRole("article", { name: "Your message" });
  }

  /** What a screen reader hears. */
  get announced(): Locator {
    return this.page.locator("[aria-live=polite].unseen");
  }

  button(name: string | RegExp, within: Locator | Page = this.page): Locator {
    return within.getByRole("button", { name, exact: typeof name === "string" });
  }

  async write(text: string): Promise<void> {
    await this.message.fill(text);
  }

  /** Send it, and wait for the whole answer. */
  async ask(text: string): Promise<Locator> {
    await this.write(text);
    await this.message.press("Enter");
    return this.answered();
  }

  /** The last answer, once it has ended. */
  async answered(): Promise<Locator> {
    const last = this.answers.last();
    await last.locator("footer").waitFor({ timeout: ANSWER_MS });
    return last;
  }

  /** So much of the answer is there and more comes: seen with the next frame, for it goes on. */
  async streaming(begun = /\S/): Promise<Locator> {
    await this.page.waitForFunction((begun) => {
      const growing = document.querySelector<HTMLElement>("article[aria-busy=true] .text");
      return growing !== null && begun.test(growing.innerText);
    }, begun);
    return this.answers.last();
  }

  /** The figures under an answer, by their label. */
  async figures(answer: Locator): Promise<Record<string, string>> {
    const pairs = await answer
      .locator("dl > div")
      .evaluateAll((all) =>
        all.map((one) => [
          one.querySelector("dt")?.textContent?.trim() ?? "",
          one.querySelector("dd")?.textContent?.trim() ?? "",
        ]),
      );
    return Object.fromEntries(pairs) as Record<string, string>;
  }

  async close(): Promise<void> {
    await this.watched.close();
  }
}

/** An amount in millionths as the pages write it: "0.002144". */
export function plain(micro: string): string {
  const digits = micro.padStart(7, "0");
  const part = digits.slice(-6).replace(/0+$/, "").padEnd(2, "0");
  return `${digits.slice(0, -6)}.${part}`;
}

/** So many words, each its own, that make paragraphs. */
export function words(count: number): string {
  return Array.from({ length: count }, (_, at) => `word${at}${at % 40 === 39 ? ".\n\n" : ""}`).join(
    " ",
  );
}
