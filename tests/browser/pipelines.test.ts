// One model over two machines, in the pages: how it comes together, what an answer of it says, what
// its receipt proves, and that nothing is lost when the coordinator begins again.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Browser, Locator, Page } from "playwright-core";
import { launch, look, shoot, sideways, violations, Watched } from "./browser";
import { plain, type Chat } from "./chatting";
import { ASKED, available, LAYERS, longWinded, Machines, RATE_MICRO, type Stage } from "./machines";
import { COMMAND } from "./stack";

const PATIENT_MS = 30_000;
/** Five times what it takes on a quiet machine. */
const GRANT_MICRO = 50_000_000;
const ANSWER_TOKENS = 60;

let machines: Machines;
let browser: Browser;
let key: string;
let ring: Stage[];
let console_: Watched;
let setup: Watched;
let chat: Chat;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "parhelion-receipts-"));
  [machines, browser] = await Promise.all([Machines.start(), launch()]);
  // The first start as a paid pool makes a first key with credits: before anything is compared.
  await machines.pool.crash();
  await machines.pool.begin();
  const { web } = machines.pool;
  key = await machines.pool.key(`${GRANT_MICRO}`);
  [console_, setup] = await Promise.all([Watched.open(browser), Watched.open(browser)]);
  await Promise.all([console_.page.goto(`${web}/console`), setup.page.goto(`${web}/setup`)]);
});

afterAll(async () => {
  await browser?.close();
  await machines?.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function shown(locator: Locator): Promise<void> {
  await locator.first().waitFor({ timeout: PATIENT_MS });
}

async function gone(locator: Locator): Promise<void> {
  await locator.first().waitFor({ state: "hidden", timeout: PATIENT_MS });
}

async function sound(page: Page): Promise<void> {
  expect(await violations(page)).toEqual([]);
  expect(await sideways(page), "nobody should have to scroll sideways").toBe(0);
}

/** The row of a node in the console. */
function row(name: string): Locator {
  const table = console_.page.getByRole("region", { name: "Table of nodes" });
  const link = console_.page.getByRole("link", { name, exact: true });
  return table.getByRole("row").filter({ has: link });
}

const layers = (stage: Stage): string => `layers ${stage.start} to ${stage.end - 1}`;
const way = (): string => ring.map((one) => one.name).join(" → ");

it("lacks a machine while one is there, and the set-up page says so until both are", async () => {
  const { page } = setup;
  await shown(page.getByText("2 more nodes must join: 0 of 2 are ready"));
  await shown(page.getByText("0 of 2 nodes ready"));
  machines.join("left");
  await shown(page.getByText("1 more node must join: 1 of 2 are ready"));
  await shown(page.getByText("1 of 2 nodes ready"));
  await shown(page.getByRole("link", { name: "left" }));
  await shown(console_.page.getByText("waiting: 1 of 2 nodes"));
  await shown(console_.page.getByText("not available"));
  await sound(page);
  await shoot(page, "setup-joining");
  machines.join("right");
  ring = await machines.settled();
  await shown(page.getByText("2 of 2 nodes ready"));
  await shown(page.getByText("Nothing is missing: prompts are served."));
  const nodes = page.getByRole("listitem");
  for (const one of ring) await shown(nodes.filter({ hasText: one.name }).getByText(layers(one)));
  await sound(page);
  await look(page, "setup-two");
  expect(setup.faults).toEqual([]);
});

it("is shown as one pipeline in order, and each machine with the part that it holds", async () => {
  const { page } = console_;
  await shown(page.locator(".pill.ready"));
  expect(ring.map((one) => one.start)).toEqual([0, ring[0]!.end]);
  expect(ring[1]!.end).toBe(LAYERS);
  const pipelines = page.getByRole("region", { name: /^Pipelines/ }).locator("article");
  await shown(pipelines.getByText("serving", { exact: true }));
  expect(await pipelines.count()).toBe(1);
  const seats = pipelines.getByRole("listitem");
  const link = /to \w+, (direct|through the coordinator): [\d.]+ ms round trip, \d+ Mbit\/s/;
  // It takes a ping and its answer until the links have a round trip.
  await shown(seats.last().getByText(link));
  const told = await seats.allInnerTexts();
  expect(told).toHaveLength(2);
  for (const [place, one] of ring.entries()) {
    const said = told[place]!;
    expect(said).toMatch(
      new RegExp(`^${one.name}\\s+${layers(one)}\\s+loaded · [\\d.]+ ms a step`),
    );
    expect(said).toMatch(link);
    expect(said).toContain(`to ${ring[1 - place]!.name}, `);
    const about = await row(one.name).innerText();
    expect(about).toMatch(new RegExp(`ready\\s+${layers(one)} of `));
    // As its stage detected it: a member has no engine of its own that would tell.
    expect(about).toMatch(/\b[cg]pu\b/);
  }
  expect(await page.getByText("bottleneck: its stage takes longest").count()).toBe(1);
  await shown(page.getByText("2 nodes ready · 1 pipeline serves it"));
  await sound(page);
  await shoot(page, "console-pipeline");
  await row(ring[1]!.name).getByRole("link").click();
  await shown(page.getByText("Stages of pipelines"));
  await shown(page.getByText(`: ${layers(ring[1]!)}`));
  await sound(page);
  await look(page, "node-of-pipeline");
  await page.goBack();
  await shown(row("left"));
});

it("answers, and says through which machines in which order", async () => {
  chat = await longWinded(browser, machines.pool, ANSWER_TOKENS, { key });
  const { page } = chat;
  await chat.button(/SmolLM2/).click();
  const dialog = page.getByRole("dialog", { name: "Model and node" });
  await dialog.getByText("a pipeline of 2").waitFor();
  await dialog.getByRole("radio", { name: new RegExp(`^${way()}`) }).check();
  await sound(page);
  await look(page, "chat-pipeline-choose");
  await page.keyboard.press("Escape");
  await chat
    .button(/SmolLM2/)
    .filter({ hasText: way() })
    .waitFor();
  const answer = await chat.ask(ASKED);
  const figures = await chat.figures(answer);
  expect(figures.node).toBe(way());
  expect(figures.tokens).toMatch(new RegExp(`^\\d+ \\+ ${ANSWER_TOKENS}$`));
  expect(await answer.locator(".moved").count()).toBe(0);
  expect(await available(machines.pool, key)).toBe(GRANT_MICRO - costOf(figures));
  await look(page, "chat-pipeline");
});

/** What the tokens under an answer cost, which stands there too. */
function costOf(figures: Record<string, string>): number {
  const [prompt, output] = figures.tokens!.split(" + ").map(Number);
  const cost = (prompt! + output!) * RATE_MICRO;
  expect(figures.cost).toBe(`${plain(`${cost}`)} PRLX.local`);
  return cost;
}

/** `parhelion receipt verify` of these bytes: its exit status and the state of each check. */
function verified(name: string, bytes: string): [number | null, Record<string, string>] {
  const file = join(folder, name);
  writeFileSync(file, bytes);
  const ran = spawnSync(COMMAND, ["receipt", "verify", file, "--json"], {
    encoding: "utf-8",
  });
  type Told = { checks: { name: string; state: string }[] };
  const { checks } = JSON.parse(ran.stdout) as Told;
  return [ran.status, Object.fromEntries(checks.map((one) => [one.name, one.state]))];
}

let receipt: string;

it("gives a receipt that every machine signed, the same in the page, as a file and elsewhere", async () => {
  const { page } = chat;
  await chat.button("Receipt", chat.answers.last()).click();
  const dialog = page.getByRole("dialog", { name: "Receipt" });
  await dialog.getByText("Every check that could be made here holds.").waitFor();
  const made = await dialog.getByRole("list", { name: "Made by" }).locator("li").allInnerTexts();
  expect(made).toHaveLength(2);
  for (const [place, one] of ring.entries()) {
    expect(made[place]).toMatch(
      new RegExp(`^${one.name} signed\\s+${layers(one)} of output ids 1 to `),
    );
    expect(made[place]).toContain(one.peer);
  }
  await sound(page);
  await shoot(page, "receipt-pipeline");
  const coming = page.waitForEvent("download");
  await chat.button("Download", dialog).click();
  const download = await coming;
  receipt = readFileSync(await download.path(), "utf-8");
  const id = download.suggestedFilename().replace(/\.json$/, "");
  const headers = { authorization: `Bearer ${key}` };
  const kept = await fetch(`${machines.pool.api}/v1/receipts/${id}`, {
    headers,
  });
  expect(receipt).toBe(await kept.text());
  const [status, states] = verified("receipt.json", receipt);
  expect(status).toBe(0);
  expect(states).toMatchObject({
    format: "ok",
    signature: "ok",
    segments: "ok",
    price: "ok",
  });
  await page.keyboard.press("Escape");
});

it("refuses a receipt with one bit of one stage's signature changed, and says which", async () => {
  const { page } = chat;
  const lied = ring[0]!;
  type Body = { segments: { stages: { node: string; signature: string }[] }[] };
  const { segments } = JSON.parse(receipt) as Body;
  const [stage] = segments[0]!.stages;
  expect(stage!.node).toBe(lied.peer);
  const bytes = Buffer.from(stage!.signature, "base64url");
  bytes[10]! ^= 1;
  const forged = receipt.replace(stage!.signature, bytes.toString("base64url"));
  expect(forged).toHaveLength(receipt.length);
  const isReceipt = (url: URL): boolean =>
    url.pathname.startsWith("/v1/receipts/") && url.search === "";
  await page.route(isReceipt, (route) =>
    route.fulfill({ contentType: "application/json", body: forged }),
  );
  await chat.button("Receipt", chat.answers.last()).click();
  const dialog = page.getByRole("dialog", { name: "Receipt" });
  await dialog.getByText("This receipt does not hold.").waitFor();
  const failed = dialog.locator("li.failed").filter({ hasText: "segments" });
  expect(await failed.innerText()).toContain(
    `stage 1 of node ${lied.peer} is not signed by its node, or was changed`,
  );
  const made = await dialog.getByRole("list", { name: "Made by" }).locator("li").allInnerTexts();
  expect(made[0]).toMatch(new RegExp(`^${lied.name} SIGNATURE DOES NOT HOLD`));
  expect(made[1]).toMatch(new RegExp(`^${ring[1]!.name} signed`));
  await sound(page);
  await look(page, "chat-pipeline-forged");
  await page.keyboard.press("Escape");
  await page.unroute(isReceipt);
  const [status, states] = verified("forged.json", forged);
  expect(status).not.toBe(0);
  expect(states).toMatchObject({
    format: "ok",
    signature: "failed",
    segments: "failed",
  });
});

/** What the console says that all users have, in base units. */
async function outstanding(): Promise<number> {
  const books = console_.page.getByLabel("Books in PRLX.local");
  const title = await books.locator("[title*='base units']").first().getAttribute("title");
  return Number(/^\d+/.exec(title ?? "")?.[0]);
}

it("comes back in every open page when the coordinator begins again, and the sums go on", async () => {
  const { page } = console_;
  const { pool } = machines;
  await page.getByLabel("Admin key").fill(pool.adminKey);
  await page.getByRole("button", { name: /^Show the operator/ }).click();
  await shown(page.getByLabel("Books in PRLX.local"));
  const before = await outstanding();
  const mine = await available(pool, key);
  // A page that is loaded anew forgets this.
  const pages = [page, setup.page, chat.page];
  for (const one of pages) await one.evaluate(() => Object.assign(globalThis, { opened: true }));

  await pool.crash();
  await shown(page.getByText("The coordinator does not answer.", { exact: false }));
  await shown(page.locator(".pill.away"));
  await shown(page.getByText(/^Read \d+ s ago: the coordinator does not answer/));
  expect(await page.locator(".tile").count()).toBe(await page.locator(".tile.stale").count());
  await shown(setup.page.getByText("what stands here is old"));
  const lost = await chat.ask("Is anybody there?");
  await shown(lost.getByText("The coordinator does not answer."));
  await look(page, "console-pipeline-away");

  await pool.begin();
  ring = await machines.settled();
  await gone(page.locator(".pill.away"));
  await gone(page.locator(".tile.stale"));
  await gone(page.getByText(/^Read \d+ s ago/));
  await gone(setup.page.getByText("what stands here is old"));
  for (const one of ring) {
    await shown(row(one.name).getByText(`${layers(one)} of `));
    await shown(setup.page.getByRole("listitem").filter({ hasText: one.name }).getByText("ready"));
  }
  expect(await outstanding(), "what was, is").toBe(before);

  await chat.button("Try again", lost).click();
  await chat.answers.getByText("2/2").waitFor();
  const figures = await chat.figures(await chat.answered());
  expect(figures.node?.split(" → ").sort()).toEqual(["left", "right"]);
  const cost = costOf(figures);
  await expect.poll(outstanding, { timeout: PATIENT_MS }).toBe(before - cost);
  expect(await available(pool, key)).toBe(mine - cost);
  await shown(chat.page.getByText(plain(`${mine - cost}`)));
  for (const one of pages) expect(await one.evaluate(() => "opened" in globalThis)).toBe(true);
  for (const one of [console_, setup, chat.watched]) {
    // A request that met nobody is logged by the browser itself.
    expect(one.faults.filter((fault) => !fault.includes("ERR_"))).toEqual([]);
  }
  await look(page, "console-pipeline-back");
});
