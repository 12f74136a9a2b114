// One model over two machines, and one of them is lost in the middle of an answer: what its reader
// sees is a pause, whose length is measured in the page, and a quiet note; the bill is exact.

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Browser } from "playwright-core";
import { launch, look, shoot, violations } from "./browser";
import { plain, type Chat } from "./chatting";
import {
  ASKED,
  available,
  layersOf,
  longestPause,
  longWinded,
  Machines,
  RATE_MICRO,
  said,
  watchGrowth,
} from "./machines";

const FACTOR = 5;
/** What a quiet machine does in a second, a busy one may do in five. */
const CLOSED_MS = 100;
/** A closed socket is seen within this (DESIGN 12). */
const SILENT_MS = 6000;
/** A node that says nothing is gone after this, however quick the machine is (DESIGN 4). */
const PREFILL_MS = 1000;
/** The prompt and what was said, once more at a place that is ready; 0.2 s and more of text. */
const REPAIR_MS = 3000;
/** Layers are loaded, linked and timed, then prefilled; some 1.5 s. */

const ANSWER_TOKENS = 400;
/** At some 60 a second it lasts long enough to be struck in its middle. */
const STRUCK_AT = 200;
/** Characters of the answer by then: some 40 tokens. */

let machines: Machines;
let browser: Browser;
let key: string;

beforeAll(async () => {
  [machines, browser] = await Promise.all([Machines.start(), launch()]);
  key = await machines.pool.key("50000000");
  machines.join("left");
  machines.join("right");
  await machines.settled();
});

afterAll(async () => {
  await browser?.close();
  await machines?.stop();
});

interface Loss {
  /** What the chat was told to ask; "" is the pool's choice. */
  node?: string;
  strike: () => void;
  /** The way before and after, by names. */
  from: string[];
  /** Null where several ways are as good. */
  to: string[] | null;
  limit_ms: number;
  /** Kept under this name among the pictures. */
  picture?: string;
}

/** Ask, strike in the middle, and hold everything that a reader sees against what was. */
async function lose(what: string, loss: Loss): Promise<void> {
  const { node, strike, from, to, limit_ms, picture } = loss;
  const before = await available(machines.pool, key);
  const chat = await longWinded(browser, machines.pool, ANSWER_TOKENS, {
    key,
    node: node ?? "",
    elsewhere: true,
  });
  const { page } = chat;
  await watchGrowth(page);
  await chat.write(ASKED);
  await chat.message.press("Enter");
  await said(page, STRUCK_AT);
  strike();
  const answer = await patiently(chat, limit_ms);
  const { pause_ms, times } = await longestPause(page);
  console.log(`${what}: the text stood still for ${pause_ms.toFixed(0)} ms of ${times} growths`);
  expect(times, "it came in pieces").toBeGreaterThan(10);
  expect(pause_ms).toBeLessThan(limit_ms);

  const figures = await chat.figures(answer);
  const [first, then] = (figures.node ?? "").split(", then ");
  expect(first).toBe(from.join(" → "));
  const ours = [...machines.running.keys()];
  expect(then?.split(" → ").every((name) => ours.includes(name))).toBe(true);
  if (to) expect(then).toBe(to.join(" → "));
  await answer.getByText(`↻ continued on ${then}`, { exact: true }).waitFor();
  expect(await answer.locator(".note.wrong").count()).toBe(0);
  await chat.announced.getByText("It was continued on").waitFor({ state: "attached" });

  const [prompt, output] = (figures.tokens ?? "").split(" + ").map(Number);
  expect(output).toBe(ANSWER_TOKENS);
  const cost = (prompt! + output!) * RATE_MICRO;
  expect(figures.cost).toBe(`${plain(`${cost}`)} PRLX.local`);
  expect(await available(machines.pool, key)).toBe(before - cost);

  await chat.button("Receipt", answer).click();
  const dialog = page.getByRole("dialog", { name: "Receipt" });
  await dialog.getByText("Every check that could be made here holds.").waitFor();
  const made = await dialog.getByRole("list", { name: "Made by" }).locator("li").allInnerTexts();
  expect(made.map((one) => one.split(" ")[0])).toEqual([...from, ...then!.split(" → ")]);
  for (const one of made) {
    const isHere = ours.includes(one.split(" ")[0]!);
    // Who was lost signs nothing more, and the receipt says so; all others did.
    expect(one).toMatch(isHere ? /^\S+ signed\s/ : /^\S+ not signed: \S/);
  }
  expect(await violations(page)).toEqual([]);
  await look(page, `loss-${what.replaceAll(" ", "-")}-receipt`);
  await page.keyboard.press("Escape");
  if (picture) await shoot(page, picture, answer.locator("dl"));
  expect(chat.watched.faults).toEqual([]);
  await chat.close();
}

/** The whole answer, which may take what its loss does and as long to be said. */
async function patiently(chat: Chat, limit_ms: number) {
  const last = chat.answers.last();
  await last.locator("footer").waitFor({ timeout: limit_ms + FACTOR * 15_000 });
  return last;
}

it("goes on at the pipeline when a machine that held the whole model is killed", async () => {
  const peer = await machines.joinWhole("whole");
  const ring = await machines.settled();
  await lose("a pipeline of one killed", {
    node: peer,
    strike: () => void machines.take("whole").kill(),
    from: ["whole"],
    to: ring.map((one) => one.name),
    limit_ms: (CLOSED_MS + PREFILL_MS) * FACTOR,
  });
});

it("goes on with a third machine when one of two that held it is killed", async () => {
  machines.join("third");
  const from = (await machines.settled()).map((one) => one.name);
  const lost = from[0]!;
  await lose("a machine of two killed", {
    picture: "chat-moved",
    strike: () => void machines.take(lost).kill(),
    from,
    to: null,
    limit_ms: (CLOSED_MS + REPAIR_MS) * FACTOR,
  });
  expect((await machines.settled()).map((one) => one.name)).toContain("third");
});

it("goes on at the same two when the layers of one crash", async () => {
  const from = await machines.settled();
  const struck = machines.running.get(from[1]!.name)!;
  await lose("a stage killed", {
    strike: () => process.kill(layersOf(struck), "SIGKILL"),
    from: from.map((one) => one.name),
    to: null,
    limit_ms: (CLOSED_MS + REPAIR_MS) * FACTOR,
  });
});

it("goes on when a machine stands still without a word, once it counts as gone", async () => {
  machines.join("fourth");
  const from = (await machines.settled()).map((one) => one.name);
  await lose("a machine of two stopped", {
    strike: () => void machines.take(from[1]!).child.kill("SIGSTOP"),
    from,
    to: null,
    limit_ms: SILENT_MS + (CLOSED_MS + REPAIR_MS) * FACTOR,
  });
});
