// The console and the set-up wizard on the real stack: nodes join and die, the coordinator dies and
// comes back, the admin key opens money and keys, and a tier gets another price.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Locator, Page } from "playwright-core";
import { launch, violations, Watched } from "./browser";
import { Pool, until } from "./stack";
import { streaming, work } from "./working";

const LOOKS = [
  ["light", { colorScheme: "light", viewport: { width: 1280, height: 860 } }],
  ["dark", { colorScheme: "dark", viewport: { width: 1280, height: 860 } }],
  ["mobile", { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true }],
] as const;
/** Five times what it takes on a quiet machine. */
const PATIENT_MS = 30_000;
/** Two points of the chart are 10 s apart and are read each 10 s: by then they were, twice. */
const CHART_MS = 60_000;
/** The model's ends of text: without them an answer is as long as it may be, whatever it says. */
const NEVER_ENDS = { "0": -100, "2": -100 };
/** A picture of a pool takes a minute's work, and five times that on a loaded machine. */
const WORK_MS = 280_000;
/** Kept where they are asked for: SCREENSHOTS=1 npm test -- console */
const SHOTS = process.env.SCREENSHOTS ? join(import.meta.dirname, "../../docs/screenshots") : null;

interface Listed {
  data: { name: string; peer: string; state: string }[];
}

let browser: Browser;

beforeAll(async () => {
  browser = await launch();
});

afterAll(async () => {
  await browser?.close();
});

function tile(page: Page, name: string): Locator {
  return page.locator(".tile").filter({ has: page.getByRole("button", { name, exact: true }) });
}

async function shown(locator: Locator): Promise<void> {
  await locator.first().waitFor({ timeout: PATIENT_MS });
}

async function gone(locator: Locator): Promise<void> {
  await locator.first().waitFor({ state: "hidden", timeout: PATIENT_MS });
}

async function enter(page: Page, key: string): Promise<void> {
  await page.getByLabel("Admin key").fill(key);
  await page.getByRole("button", { name: /^(Show the operator|Set up the pool)/ }).click();
}

async function sound(page: Page): Promise<void> {
  expect(await violations(page)).toEqual([]);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  expect(wide, "nobody should have to scroll sideways").toBeLessThanOrEqual(0);
}

describe("a pool that waits for two nodes", () => {
  let pool: Pool;
  let watched: Watched;
  let page: Page;

  beforeAll(async () => {
    pool = await Pool.start("run", "-n", "2");
    watched = await Watched.open(browser);
    page = watched.page;
    await page.goto(`${pool.web}/console`);
  });

  afterAll(async () => {
    await watched?.close();
    await pool?.stop();
  });

  it("says what is missing, until the last node is ready", async () => {
    await shown(page.getByText("waiting: 0 of 2 nodes"));
    await shown(page.getByText("2 more nodes must join: 0 of 2 are ready"));
    await shown(page.getByText("not available"));
    pool.join();
    await shown(page.getByText("1 more node must join: 1 of 2 are ready"));
    await shown(page.getByText("waiting: 1 of 2 nodes"));
    pool.join();
    await gone(page.getByText("Still missing"));
    await shown(page.locator(".pill.ready"));
    const rows = page.getByRole("region", { name: "Table of nodes" }).locator("tbody tr");
    await expect.poll(() => rows.count()).toBe(2);
    // The pool asks a newcomer something of its own accord: until then a slot may be at work.
    await expect
      .poll(() => rows.first().innerText())
      .toMatch(/^[a-z]+-[a-z]+-[0-9a-f]{4}\s+ready\s+0 of \d+/);
    await expect.poll(() => tile(page, "Nodes live").locator("dd").innerText()).toBe("2");
  });

  it("shows an answer while it streams, by node and speed and never by word", async () => {
    const { data } = await pool.get<Listed>("/v1/nodes");
    const answering = ask(pool, "Tell a story about one peculiar lighthouse.", 600);
    const answers = page.getByRole("region", { name: "Table of answers" });
    await shown(answers.filter({ hasText: /\d\.\d tokens\/s/ }));
    const said = await answers.innerText();
    expect(data.some((node) => said.includes(node.name))).toBe(true);
    expect(said).not.toContain("lighthouse");
    expect(said).toMatch(/\s\d+\.\d tokens\/s\s/);
    await answering;
    await shown(page.getByText("None.", { exact: true }));
    for (const name of ["Tokens", "Requests", "First token, p50", "Throughput, summed"]) {
      await shown(tile(page, name).locator("dd").filter({ hasText: /[1-9]/ }));
    }
  });

  it("draws the chart anew in the colours of another scheme", async () => {
    const chart = page.locator(".uplot");
    // Two points make a line, and one comes every 10 s; they are read as often.
    await chart.waitFor({ timeout: CHART_MS });
    const line = () => chart.locator(".u-marker").nth(1).evaluate(borderOf);
    const light = await line();
    await page.emulateMedia({ colorScheme: "dark" });
    await until(async () => (await line()) !== light);
    expect(await chart.count()).toBe(1);
    await page.emulateMedia({ colorScheme: "light" });
  });

  it("tells where a figure comes from to a keyboard and to a screen reader", async () => {
    const name = page.getByRole("button", { name: "Throughput, summed" });
    await name.focus();
    const tip = page.getByRole("tooltip").filter({ hasText: "not what flows now" });
    await shown(tip);
    const described = await name.getAttribute("aria-describedby");
    expect(await tip.getAttribute("id")).toBe(described);
    await page.keyboard.press("Escape");
    await gone(tip);
    await tile(page, "Queue").hover();
    await shown(page.getByRole("tooltip").filter({ hasText: "wait for a slot" }));
  });

  it("shows a node that was killed as gone, and why", async () => {
    await pool.nodes[1]!.kill();
    const row = page.getByRole("row").filter({ hasText: "its connection ended" });
    await shown(row);
    // What the coordinator saw is there for who wants to know it, and jargon for all others.
    expect(await row.innerText()).not.toContain("goodbye");
    await shown(row.getByTitle(/^the connection closed without a goodbye/));
    expect(await row.locator(".state").innerText()).toBe("gone");
    await shown(page.getByText("1 more node must join: 1 of 2 are ready; prompts are served"));
    await row.getByRole("link").click();
    await shown(page.getByText("its connection ended"));
    const history = page.locator(".history li");
    expect(await history.count()).toBeGreaterThanOrEqual(2);
    expect(await history.first().innerText()).toContain("gone");
    await page.goBack();
    await shown(tile(page, "Running"));
  });

  it("is visibly old while the coordinator is away, and fresh by itself when it is back", async () => {
    await shown(page.locator(".pill.ready"));
    const tokens = tile(page, "Tokens");
    await pool.crash();
    await shown(page.getByText("The coordinator does not answer."));
    await shown(page.locator(".pill.away"));
    expect(await page.locator(".tile").count()).toBeGreaterThan(0);
    await expect.poll(() => page.locator(".tile:not(.stale)").count()).toBe(0);
    expect(await tokens.evaluate((one) => getComputedStyle(one).borderTopStyle)).toBe("dashed");
    expect(await violations(page)).toEqual([]);
    await pool.begin();
    await gone(page.getByText("The coordinator does not answer."));
    await gone(page.locator(".tile.stale"));
    // The node that lives comes back too, and is told by a feed that began anew.
    await shown(page.getByRole("region", { name: "Table of nodes" }).getByText("ready"));
    expect(watched.faults.filter((one) => !one.includes("ERR_"))).toEqual([]);
  });
});

describe("nodes that load", () => {
  let pool: Pool;
  let watched: Watched;
  let page: Page;

  beforeAll(async () => {
    pool = await Pool.start("run", "-n", "1");
    watched = await Watched.open(browser);
    page = watched.page;
    await page.goto(`${pool.web}/console`);
  });

  afterAll(async () => {
    await watched?.close();
    await pool?.stop();
  });

  it("shows a node joining while it loads, and ready when it has", async () => {
    const { release } = pool.joinBraked("--name", "slow one");
    const row = page.getByRole("row").filter({ hasText: "slow one" });
    await shown(row.getByText("joining", { exact: true }));
    await shown(row.getByText("loads its model"));
    await shown(tile(page, "Nodes live").getByText("and 1 joining"));
    // It is on its way, and counts for nothing yet.
    await shown(page.getByText("1 more node must join: 0 of 1 are ready"));
    await sound(page);
    const setup = await watched.page.context().newPage();
    await setup.goto(`${pool.web}/setup`);
    await enter(setup, pool.adminKey);
    await shown(setup.getByText("loads its model"));
    await setup.close();
    release();
    await shown(row.getByText("ready", { exact: true }));
    await gone(row.getByText("loads its model"));
    await gone(page.getByText("and 1 joining"));
  });

  it("drops one that is killed while it loads", async () => {
    const { node } = pool.joinBraked("--name", "doomed");
    const row = page.getByRole("row").filter({ hasText: "doomed" });
    await shown(row.getByText("joining", { exact: true }));
    await node.kill();
    await gone(row);
    expect(watched.faults).toEqual([]);
  });
});

describe("a pool that sells", () => {
  let pool: Pool;
  /** Of a pool that worked, which is made where pictures are taken. */
  let key: Promise<string> | null = null;

  beforeAll(async () => {
    pool = await Pool.start();
  });

  afterAll(async () => {
    await pool?.stop();
  });

  it("tells a wrong admin key, and shows money and the join command for the right one", async () => {
    const { page, faults, close } = await opened(pool, "/console");
    await enter(page, "sk-prl-not-this-one");
    const wrong = page.getByText("This is not the admin key of this pool.");
    await shown(wrong);
    // Where it is mended: the field has the focus, and what was wrong with it is seen beside it.
    const field = page.getByLabel("Admin key");
    await expect.poll(() => field.evaluate((one) => one === document.activeElement)).toBe(true);
    await expect.poll(() => wrong.evaluate(isSeen)).toBe(true);
    expect(await field.evaluate(describedBy)).toContain("This is not the admin key");
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
    await enter(page, pool.adminKey);
    await shown(page.getByText(/^parhelion join -s /));
    const books = page.getByLabel("Books in PRLX.local");
    await shown(books.getByText("85\u00a0% operators"));
    await shown(page.getByRole("cell", { name: "No payment yet." }));
    const told = await pool.get<{ assets: { outstanding: string }[] }>("/v1/console/money", {
      authorization: `Bearer ${pool.adminKey}`,
    });
    await shown(books.getByTitle(`${told.assets[0]!.outstanding} base units of PRLX.local`));
    expect(faults).toEqual([]);
    await close();
  });

  it("makes a key, shows it once, and revokes it", async () => {
    const { page, faults, close } = await opened(pool, "/console");
    await enter(page, pool.adminKey);
    const form = page.getByRole("form", { name: "New API key" });
    await form.getByLabel("Name").fill("a tester");
    await form.getByLabel("Limit in PRLX.local").fill("0.5");
    await form.getByLabel("Credits to give it").fill("2");
    await form.getByRole("button", { name: "Create a key" }).press("Enter");
    const made = page.getByRole("group", { name: "The new key" });
    await shown(made);
    await expect.poll(() => made.evaluate((one) => one === document.activeElement)).toBe(true);
    const secret = (await page.getByText(/^sk-prl-\S{20,}$/).innerText()).trim();
    const balance = `${pool.api}/v1/credits/balance`;
    const headers = { authorization: `Bearer ${secret}` };
    // It has 2, and may spend what its limit says.
    expect(await (await fetch(balance, { headers })).json()).toMatchObject({ available: "500000" });
    await page.getByRole("button", { name: "I have it" }).press("Enter");
    expect(await page.content()).not.toContain(secret);
    await expect.poll(() => page.evaluate(focused)).toBe("INPUT");
    const row = page.getByRole("row").filter({ hasText: "a tester" });
    expect(await row.innerText()).toContain("0.50");
    // What it spends is seen without a reload.
    const spent = row.locator("td").nth(1);
    expect(await spent.innerText()).toContain("0.00");
    await ask(pool, "Count to three.", 8, headers);
    await expect.poll(() => spent.innerText(), { timeout: PATIENT_MS }).not.toContain("0.00 ");
    await row.getByRole("button", { name: "Revoke a tester" }).press("Enter");
    await expect.poll(() => page.evaluate(focused)).toBe("BUTTON");
    await row.getByRole("button", { name: "Revoke for good" }).press("Enter");
    await shown(row.getByText("revoked"));
    await expect.poll(() => page.evaluate(focused)).toBe("SPAN");
    expect((await fetch(balance, { headers })).status).toBe(401);
    expect(faults).toEqual([]);
    await close();
  });

  it("sells a tier at another price at once, says so before, and keeps it", async () => {
    const { page, faults, close } = await opened(pool, "/setup");
    await enter(page, pool.adminKey);
    await page.getByRole("button", { name: /Tiers and rates/ }).click();
    const premium = page.getByRole("group", { name: "premium" });
    await premium.getByLabel("Price in USDC.local").fill("0,5");
    await page.getByRole("button", { name: "Next" }).click();
    await shown(page.getByText("premium: a price such as 0.25, above 0."));
    expect(await page.getByRole("button", { name: "Apply" }).count()).toBe(0);
    await page.getByRole("button", { name: "Back" }).click();
    await premium.getByLabel("Price in USDC.local").fill("0.375");
    await page.getByRole("button", { name: "Next" }).click();
    const change = page.getByRole("row").filter({ hasText: "Tier premium" });
    expect(await change.innerText()).toMatch(/0\.25,.*0\.375,.*at once/s);
    await page.getByRole("button", { name: "Apply" }).click();
    await shown(page.getByText("The pool is now set up so."));
    expect(await page.getByText("next start on").count()).toBe(0);
    expect(await price(pool)).toBe("375000");
    await pool.crash();
    await pool.begin();
    expect(await price(pool)).toBe("375000");
    await page.goto(`${pool.web}/content/premium`);
    await shown(page.getByText("0.375").first());
    expect(faults.filter((one) => !one.includes("ERR_"))).toEqual([]);
    await close();
  });

  it.each(LOOKS)("has pages that are sound in %s", { timeout: WORK_MS }, async (look, more) => {
    const end = SHOTS ? streaming(pool, await (key ??= work(pool))) : null;
    const { data } = await pool.get<Listed>("/v1/nodes");
    const pages = [
      ["console-operator", "/console"],
      ["node", `/console/nodes/${data[0]!.peer}`],
      ["setup", "/setup"],
    ] as const;
    const { page, faults, close } = await opened(pool, "/console", more);
    await enter(page, pool.adminKey);
    await shown(page.getByText("Credits outstanding"));
    for (const [name, path] of pages) {
      await page.goto(pool.web + path);
      await shown(page.getByText(name === "node" ? "History" : /^parhelion join/));
      if (name === "setup") {
        await page.getByRole("button", { name: /Tiers and rates/ }).click();
        const forget = page.getByRole("button", { name: "Forget the admin key" });
        const margin = await page.getByRole("heading", { level: 1 }).evaluate(leftOf);
        expect(Math.abs((await forget.evaluate(leftOf)) - margin)).toBeLessThan(1.5);
      }
      await sound(page);
      if (SHOTS) {
        mkdirSync(SHOTS, { recursive: true });
        if (name === "console-operator") await page.locator(".uplot").waitFor();
        await page.screenshot({ path: join(SHOTS, `${name}-${look}.png`), fullPage: true });
      }
    }
    await end?.();
    expect(faults).toEqual([]);
    await close();
  });
});

async function opened(pool: Pool, path: string, more: Parameters<Browser["newContext"]>[0] = {}) {
  const watched = await Watched.open(browser, more);
  await watched.page.goto(pool.web + path);
  return { page: watched.page, faults: watched.faults, close: () => watched.close() };
}

/** Where its words begin, whatever box is round them. */
function leftOf(element: Element): number {
  const words = document.createRange();
  words.selectNodeContents(element);
  return words.getBoundingClientRect().left;
}

/** What has the focus now. */
function focused(): string | undefined {
  return document.activeElement?.tagName;
}

function describedBy(field: Element): string {
  const by = field.getAttribute("aria-describedby");
  return (by && document.getElementById(by)?.textContent) || "";
}

/** Whether it stands within what the window shows. */
function isSeen(element: Element): boolean {
  const { top, bottom } = element.getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
}

function borderOf(element: Element): string {
  return getComputedStyle(element).borderTopColor;
}

async function ask(
  pool: Pool,
  content: string,
  max_tokens: number,
  by: Record<string, string> = {},
): Promise<void> {
  const body = {
    ...{ messages: [{ role: "user", content }], max_tokens, stream: true },
    logit_bias: NEVER_ENDS,
  };
  const response = await fetch(`${pool.api}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...by },
    body: JSON.stringify(body),
  });
  expect(response.status).toBe(200);
  await response.text();
}

async function price(pool: Pool): Promise<string | undefined> {
  type Sold = { items: { resource: string; accepts: { amount: string }[] }[] };
  const sold = await pool.get<Sold>("/.well-known/x402");
  return sold.items.find((one) => one.resource.endsWith("/content/premium"))?.accepts[0]?.amount;
}
