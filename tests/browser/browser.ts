// Debian's Chromium, driven by playwright-core: a page that may reach this machine and nothing else.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import {
  chromium,
  type Browser,
  type BrowserContext,
  type Locator,
  type Page,
} from "playwright-core";

const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** The browser of a test file. */
export function launch(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  return chromium.launch({ executablePath, args: ARGUMENTS });
}

/** What a page did that no page of ours may do. */
export class Watched {
  readonly page: Page;
  readonly context: BrowserContext;
  readonly faults: string[] = [];

  private constructor(context: BrowserContext, page: Page) {
    this.context = context;
    this.page = page;
    page.on("pageerror", (error) => this.faults.push(`script: ${error.message}`));
    page.on("console", (said) => {
      // A refusal (401, 402) is logged by the browser itself, and is no fault of the page.
      if (said.type() === "error" && !/Failed to load resource/.test(said.text())) {
        this.faults.push(`console: ${said.text()}`);
      }
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.protocol.startsWith("http") && !LOOPBACK.has(url.hostname)) {
        this.faults.push(`left the machine: ${request.url()}`);
      }
    });
  }

  /** A new person at a new browser: nothing kept, nothing signed in. */
  static async open(
    browser: Browser,
    more: Parameters<Browser["newContext"]>[0] = {},
  ): Promise<Watched> {
    const context = await browser.newContext(more);
    return new Watched(context, await context.newPage());
  }

  /** Another tab of the same browser. */
  static async beside(other: Watched): Promise<Watched> {
    return new Watched(other.context, await other.context.newPage());
  }

  async close(): Promise<void> {
    await this.context.close();
  }
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf-8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

interface Violation {
  id: string;
  nodes: { target: string[]; failureSummary: string }[];
}

/** What axe-core finds against WCAG 2.2 AA, a line a finding. */
export async function violations(page: Page): Promise<string[]> {
  // By the debugger and not as a script of the page: its policy stays as strict as it is.
  const found = (await page.evaluate(
    `(async () => { ${AXE}; return (await axe.run({ runOnly: ${JSON.stringify(TAGS)} })).violations; })()`,
  )) as Violation[];
  return found.flatMap((one) =>
    one.nodes.map((node) => `${one.id} at ${node.target.join(" ")}: ${node.failureSummary}`),
  );
}

/** Keep a picture of this state where somebody wants to look at it: LOOKS=folder npm test. */
export async function look(page: Page, name: string): Promise<void> {
  if (process.env.LOOKS) await pictures(page, process.env.LOOKS, name);
}

/** The same, and among the pictures that are kept with the code: SCREENSHOTS=1 npm test. */
export async function shoot(page: Page, name: string, at?: Locator): Promise<void> {
  await look(page, name);
  const folder = join(import.meta.dirname, "../../docs/screenshots");
  if (process.env.SCREENSHOTS) await pictures(page, folder, name, at);
}

/** Where a page scrolls inside, `at` is what has to be seen. */
async function pictures(page: Page, folder: string, name: string, at?: Locator): Promise<void> {
  const size = page.viewportSize();
  for (const [suffix, scheme, width] of [
    ["light", "light", 1280],
    ["dark", "dark", 1280],
    ["mobile", "light", 390],
  ] as const) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: 844 });
    await at?.scrollIntoViewIfNeeded();
    await page.screenshot({ path: join(folder, `${name}-${suffix}.png`), fullPage: true });
  }
  await page.emulateMedia({ colorScheme: null });
  if (size) await page.setViewportSize(size);
}

/** How far a page of this width has to be scrolled sideways, in pixels. */
export async function sideways(page: Page, width = 390): Promise<number> {
  const size = page.viewportSize();
  await page.setViewportSize({ width, height: 844 });
  const over = await page.evaluate(async () => {
    // A page that answers to its width does so with the next frame.
    for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
    return document.documentElement.scrollWidth - innerWidth;
  });
  if (size) await page.setViewportSize(size);
  return Math.max(over, 0);
}
