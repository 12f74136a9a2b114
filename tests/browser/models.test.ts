// Several models in the picker: what each costs, holds and does now, and which one is asked.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Browser, Locator, Page } from "playwright-core";
import { launch, look, sideways, violations } from "./browser";
import { Chat, plain, type Kept } from "./chatting";
import { COMMAND, Pool } from "./stack";

const ROOT = join(import.meta.dirname, "..", "..");
const PYTHON = join(ROOT, ".venv", "bin", "python");
const FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct";
const SECOND = "Tiny";
const LIMIT_MS = 60_000;

/** A whole llama of 2,048 tokens of context with random weights: a real file for a real engine. */
const WRITE = `
import sys
from pathlib import Path
from tests.tiny_models import SHAPES, write_tiny
write_tiny(Path(sys.argv[1]), SHAPES["llama"])
`;

let pool: Pool;
let browser: Browser;
let key: string;
let file: string;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
  file = join(pool.folder, `${SECOND}.gguf`);
  called(PYTHON, ["-c", WRITE, file]);
  // Nobody serves it yet: the pool knows it, and what it costs.
  models("add", SECOND, "--gguf", file, "--rate", "8:16");
  key = await pool.key("50000000");
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** What the owner does in a terminal. */
function models(...words: string[]): void {
  const port = new URL(pool.api).port;
  called(COMMAND, ["models", ...words, "--data", pool.data, "--api-port", port]);
}

function called(command: string, args: string[]): void {
  const env = { ...process.env, PYTHONPATH: ROOT };
  const done = spawnSync(command, args, { cwd: ROOT, encoding: "utf-8", timeout: LIMIT_MS, env });
  expect(done.status, done.stderr).toBe(0);
}

async function visit(flow: (chat: Chat, page: Page) => Promise<void>, kept: Kept = {}) {
  // Short answers: what is said is no matter here.
  const chat = await Chat.open(browser, pool, { key, max_tokens: "8", ...kept });
  await flow(chat, chat.page);
  expect(chat.watched.faults).toEqual([]);
  await chat.close();
}

const picker = (page: Page) => page.getByRole("dialog", { name: "Model and node" });
const option = (page: Page, name: string) =>
  picker(page).getByRole("radio", { name: new RegExp(`^${name}`) });

/** Open the picker and choose a model. */
async function pick(chat: Chat, name: string): Promise<void> {
  await chat.page.getByTitle("Choose model and node").click();
  await option(chat.page, name).check();
  await chat.button("Close", picker(chat.page)).click();
  await picker(chat.page).waitFor({ state: "detached" });
}

/** What the API itself quotes for this message to this model. */
async function quoted(model: string, content: string): Promise<string> {
  const response = await fetch(`${pool.api}/v1/quote`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content }], max_tokens: 8 }),
  });
  return `at most ${plain(((await response.json()) as { cost: string }).cost)} PRLX.local`;
}

/** The models of the requests that were sent for an answer. */
function sent(page: Page): string[] {
  const models: string[] = [];
  page.on("request", (one) => {
    if (!one.url().endsWith("/v1/chat/completions")) return;
    models.push((one.postDataJSON() as { model: string }).model);
  });
  return models;
}

const facts = (of: Locator) =>
  of.locator("xpath=ancestor::label").locator(".facts > span").allInnerTexts();

it("shows a model that nobody serves as that, and explains it to who chooses it", () =>
  visit(async (chat, page) => {
    const asked = sent(page);
    await page.getByTitle("Choose model and node").click();
    const [ready, away] = [await facts(option(page, FIRST)), await facts(option(page, SECOND))];
    expect(ready).toEqual([
      "4.00 PRLX.local per million tokens",
      expect.stringMatching(/^[\d,]+ tokens of context$/),
      "ready, on 1 node",
    ]);
    expect(away).toEqual([
      "8.00 in / 16.00 out PRLX.local per million tokens",
      "2,048 tokens of context",
      "not available: no node offers it now",
    ]);
    await option(page, SECOND).check();
    expect(await violations(page)).toEqual([]);
    expect(await sideways(page)).toBe(0);
    await look(page, "chat-models");
    await chat.button("Close", picker(page)).click();
    const note = page.getByRole("status").filter({ hasText: "Tiny is not available" });
    await note.getByText("would be refused now, and cost nothing").waitFor();
    expect(await violations(page)).toEqual([]);

    // It is asked all the same where somebody wants to: in words, and no other model in its place.
    const answer = await chat.ask("Hello");
    await answer
      .getByText(/no node/i)
      .first()
      .waitFor();
    expect(asked).toEqual([SECOND]);
    expect(
      await pool.get<{ held: string; available: string }>("/v1/credits/balance", {
        authorization: `Bearer ${key}`,
      }),
    ).toMatchObject({ held: "0", available: "50000000" });

    await chat.button("Choose another model", note).click();
    await option(page, FIRST).check();
    await chat.button("Close", picker(page)).click();
    await note.waitFor({ state: "detached" });
    await chat.button("Try again", answer).click();
    expect((await chat.figures(await chat.answered())).model).toBe(FIRST);
    expect(asked).toEqual([SECOND, FIRST]);
  }));

it("asks the model that is chosen in the middle of a conversation, at its price", async () => {
  const node = pool.join("-m", file, "--name", "second");
  await pool.ready("second");
  await visit(async (chat, page) => {
    const asked = sent(page);
    const cost = page.locator("#cost");
    await chat.write("What is it?");
    await expect.poll(() => cost.innerText()).toBe(await quoted(FIRST, "What is it?"));
    await pick(chat, SECOND);
    await expect.poll(() => cost.innerText()).toBe(await quoted(SECOND, "What is it?"));
    await pick(chat, FIRST);
    await chat.message.press("Enter");
    expect((await chat.figures(await chat.answered())).model).toBe(FIRST);

    await pick(chat, SECOND);
    const answer = await chat.ask("And this?");
    const figures = await chat.figures(answer);
    expect([figures.model, figures.node]).toEqual([SECOND, "second"]);
    expect(asked).toEqual([FIRST, SECOND]);
    // What is charged is this model's price: 8 for a million tokens in, 16 out.
    const [, prompt, completion] = /^([\d,]+) \+ ([\d,]+)$/.exec(figures.tokens!)!;
    const micro = Math.ceil(8 * Number(prompt!.replaceAll(",", "")) + 16 * Number(completion));
    expect(figures.cost).toBe(`${plain(String(micro))} PRLX.local`);
    // The choice stays with the browser.
    await page.reload();
    await page.locator(".pick", { hasText: SECOND }).waitFor();
  });
  await node.stop();
});

it("never swaps a model that left the pool for another one", () =>
  visit(async (chat, page) => {
    await pick(chat, SECOND);
    models("remove", SECOND);
    const asked = sent(page);
    await page.reload();
    const note = page.getByRole("status").filter({ hasText: "Tiny is not in this pool any more" });
    await note.waitFor();
    await chat.write("Hello");
    await page.getByText("would be refused").first().waitFor();
    await chat.message.press("Enter");
    const answer = await chat.answered();
    expect([asked, await answer.locator(".text").innerText()]).toEqual([[SECOND], ""]);
    await chat.button("Choose another model", note).click();
    await picker(page).getByText("not in this pool any more: choose another").waitFor();
    expect(await violations(page)).toEqual([]);
    await option(page, FIRST).check();
    await chat.button("Close", picker(page)).click();
    await note.waitFor({ state: "detached" });
  }));
