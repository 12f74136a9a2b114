// Every page: it opens, breaks nothing of its policy, reaches nobody else, and axe-core is content.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser } from "playwright-core";
import { launch, violations, Watched } from "./browser";
import { Pool } from "./stack";
import { streaming, work } from "./working";

const PAGES = [
  ["chat", "/"],
  ["account", "/account"],
  ["console", "/console"],
  ["content", "/content/premium"],
  ["setup", "/setup"],
  ["node", "/console/nodes/"],
] as const;
/** Pictures of these are kept as the operator sees them, by console.test.ts. */
const SHOT_ELSEWHERE = new Set(["setup", "node"]);
const LOOKS = [
  ["light", { colorScheme: "light", viewport: { width: 1280, height: 860 } }],
  ["dark", { colorScheme: "dark", viewport: { width: 1280, height: 860 } }],
  ["mobile", { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true }],
] as const;
const SETTLE_MS = 1500;
/** Feeds bring their first event within a second. */

/** A picture of a pool takes a minute's work, and five times that on a loaded machine. */
const WORK_MS = 280_000;
/** Kept where they are asked for: SCREENSHOTS=1 npm test -- pages */
const SHOTS = process.env.SCREENSHOTS ? join(import.meta.dirname, "../../docs/screenshots") : null;

let pool: Pool;
let browser: Browser;
/** Of a pool that worked, which is made where pictures are taken. */
let key: Promise<string> | null = null;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

describe.each(PAGES)("the page %s", (name, path) => {
  it.each(LOOKS)("is sound in %s", { timeout: WORK_MS }, async (look, more) => {
    const { page, faults, close } = await opened(more);
    const isAtWork = SHOTS !== null && name === "console";
    const end = isAtWork ? streaming(pool, await (key ??= work(pool))) : null;
    await page.goto(pool.web + (await whole(name, path)));
    await page.getByRole("heading", { level: 1 }).first().waitFor({ state: "attached" });
    await page.waitForTimeout(SETTLE_MS);
    expect(await violations(page)).toEqual([]);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(wide, "nobody should have to scroll sideways").toBeLessThanOrEqual(0);
    if (SHOTS && !SHOT_ELSEWHERE.has(name)) {
      mkdirSync(SHOTS, { recursive: true });
      if (isAtWork) await page.locator(".uplot").waitFor();
      await page.screenshot({ path: join(SHOTS, `${name}-${look}.png`) });
    }
    await end?.();
    expect(faults).toEqual([]);
    await close();
  });
});

it("lets nothing in from elsewhere and nothing inline", async () => {
  for (const [name, path] of PAGES) {
    const url = pool.web + (await whole(name, path));
    const response = await fetch(url, { headers: { accept: "text/html" } });
    // What is sold at /content is offered with 402, and is a page all the same.
    expect(response.status).toBe(name === "content" ? 402 : 200);
    const policy = response.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("default-src 'self'");
    expect(policy).not.toMatch(/unsafe|data:|http|\*/);
  }
});

/** The page of a node is one of those that are here. */
async function whole(name: string, path: string): Promise<string> {
  if (name !== "node") return path;
  const { data } = await pool.get<{ data: { peer: string }[] }>("/v1/nodes");
  return `${path}${data[0]!.peer}`;
}

async function opened(more: Parameters<Browser["newContext"]>[0]) {
  const watched = await Watched.open(browser, more);
  return { ...watched, page: watched.page, faults: watched.faults, close: () => watched.close() };
}
