// One browser with two tabs at the same conversation: no word is lost, whoever writes last.

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Browser } from "playwright-core";
import { launch, look, violations } from "./browser";
import { Chat, words } from "./chatting";
import { Pool } from "./stack";

const PACE_TOKENS_PER_S = 150;
const LONG = words(250);
/** Some seconds of answer: time for the other tab to do something meanwhile. */

let pool: Pool;
let browser: Browser;
let key: string;
let parrot: string;

beforeAll(async () => {
  const env = { PARHELION_NODES_PROBE: "false" };
  [pool, browser] = await Promise.all([Pool.startWith(env), launch()]);
  pool.parrot("parrot", PACE_TOKENS_PER_S);
  [key, parrot] = await Promise.all([pool.key("50000000"), pool.ready("parrot")]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** A person with two tabs, whose node says again what they write. */
async function visit(flow: (one: Chat, other: Chat) => Promise<void>): Promise<void> {
  const one = await Chat.open(browser, pool, { key, node: parrot, elsewhere: false });
  const other = await Chat.beside(one, pool, key);
  await flow(one, other);
  expect([...one.watched.faults, ...other.watched.faults]).toEqual([]);
  await one.close();
}

const list = (chat: Chat) => chat.page.locator("#drawer li:not(.none)");
const texts = (chat: Chat) => chat.answers.locator(".text").allInnerTexts();
const deleted = (chat: Chat) => chat.page.getByText("was deleted in another tab");

/** All words of a text: what is drawn has its own spaces. */
const said = (text: string) => text.split(/\s+/).filter(Boolean).join(" ");

it("shows in each tab what the other one wrote, and both of what was written at once", () =>
  visit(async (one, other) => {
    await one.ask("First question");
    await other.button("First question").click();
    await other.answered();
    await other.ask("Second question");
    await expect.poll(() => texts(one)).toEqual(["First question", "Second question"]);

    // At once: here the next question, there another wording of the first.
    await one.write(LONG);
    await one.message.press("Enter");
    await one.streaming();
    await other.button("Edit", other.questions.first()).click();
    await other.page.getByLabel("Another wording of your message").fill(`Anew: ${LONG}`);
    await other.page.getByLabel("Another wording of your message").press("Enter");
    await Promise.all([one.answered(), other.answered()]);
    expect((await texts(one)).map(said)).toEqual(["First question", "Second question", said(LONG)]);
    await expect.poll(async () => (await texts(other)).map(said)).toEqual([`Anew: ${said(LONG)}`]);
    for (const chat of [one, other]) {
      await chat.page.reload();
      await chat.button("First question").click();
      await chat.answered();
      await chat.questions
        .first()
        .locator(".siblings", { hasText: /[12]\/2/ })
        .waitFor();
    }
    const stored = await kept(one);
    const answers = stored.flatMap((all) => all.messages.filter((m) => m.role === "assistant"));
    expect(answers.map((m) => [said(m.text), m.facts.state])).toEqual(
      expect.arrayContaining([
        ["First question", "done"],
        ["Second question", "done"],
        [said(LONG), "done"],
        [`Anew: ${said(LONG)}`, "done"],
      ]),
    );
    expect(answers.length).toBe(4);
  }));

interface Stored {
  title: string;
  messages: { role: string; text: string; facts: { state: string } }[];
}

/** The conversations as the browser has them. */
function kept(chat: Chat): Promise<Stored[]> {
  return chat.page.evaluate(
    () =>
      new Promise<Stored[]>((resolve, reject) => {
        const opening = indexedDB.open("parhelion.chat");
        opening.onerror = () => reject(opening.error);
        opening.onsuccess = () => {
          const asking = opening.result.transaction("bodies").objectStore("bodies").getAll();
          asking.onsuccess = () => resolve(asking.result as Stored[]);
          asking.onerror = () => reject(asking.error);
        };
      }),
  );
}

it("says of an answer that it comes in another tab, and takes it whole; a name given stays", () =>
  visit(async (one, other) => {
    await one.write(LONG);
    await one.message.press("Enter");
    await one.streaming();
    await other.button(/^word0 word1/).click();
    await other.page.getByText("This answer comes in another tab").waitFor();
    await other.write("Too early");
    expect(await other.button("Send").isDisabled()).toBe(true);
    await other.page.getByText("the answer before comes in another tab").waitFor();
    expect(await violations(other.page)).toEqual([]);
    await look(other.page, "chat-elsewhere");
    await other.button(/^Rename word0/).click();
    await other.page.getByRole("textbox", { name: "Title" }).fill("A name of its own");
    await other.page.keyboard.press("Enter");
    await one.page.getByRole("heading", { name: "A name of its own" }).waitFor();

    const here = await one.answered();
    const there = await other.answered();
    await expect.poll(() => other.figures(there)).toEqual(await one.figures(here));
    expect(said(await there.locator(".text").innerText())).toBe(said(LONG));
    expect(await other.page.getByText("The page was closed").count()).toBe(0);
    await other.message.press("Enter");
    await expect.poll(() => one.answers.count()).toBe(2);
    await other.answered();
    await expect
      .poll(async () => (await kept(one)).map((all) => all.title))
      .toEqual(["A name of its own"]);
  }));

it("says that an answer was cut once the tab it came in is closed", () =>
  visit(async (one, other) => {
    await one.write(LONG);
    await one.message.press("Enter");
    await one.streaming();
    await other.button(/^word0 word1/).click();
    await other.page.getByText("This answer comes in another tab").waitFor();
    await one.page.close();
    await other.page.getByText("The page was closed while this answer came.").waitFor();
    // What had come by then is charged, and its cost and its receipt are told here.
    await other.button("Receipt", other.answers.last()).waitFor();
    expect((await other.figures(other.answers.last())).cost).toMatch(/^0\.\d+ PRLX/);
    await other.ask("And on");
    expect((await texts(other)).at(-1)).toBe("And on");
  }));

it("lets what another tab deleted be deleted, says so, and keeps it where that is wanted", () =>
  visit(async (one, other) => {
    await one.write(LONG);
    await one.message.press("Enter");
    await one.streaming();
    await other.button(/^Delete word0/).click();
    await deleted(one).waitFor();
    expect(await violations(one.page)).toEqual([]);
    await look(one.page, "chat-deleted");
    // The answer goes on to its end, and brings nothing back by itself.
    expect(said(await (await one.answered()).locator(".text").innerText())).toBe(said(LONG));
    expect([await list(one).count(), await list(other).count()]).toEqual([0, 0]);
    expect(await kept(one)).toEqual([]);
    await one.button("Keep it").click();
    await deleted(one).waitFor({ state: "detached" });
    await expect.poll(() => list(other).count()).toBe(1);

    await other.button(/^Delete word0/).click();
    await deleted(one).waitFor();
    await other.button("Undo").click();
    await deleted(one).waitFor({ state: "detached" });

    // Who writes on wants it kept, all of it.
    await other.button(/^Delete word0/).click();
    await deleted(one).waitFor();
    await one.ask("Still here");
    await expect.poll(() => list(other).count()).toBe(1);
    const [all] = await kept(one);
    expect(all!.messages.map((each) => said(each.text))).toEqual([
      said(LONG),
      said(LONG),
      "Still here",
      "Still here",
    ]);
  }));
