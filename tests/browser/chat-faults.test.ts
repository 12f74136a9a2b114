// The chat when something is wrong: nodes and coordinators that die, money that is short, a hostile
// model, too much of everything. What came is kept, and the person hears what to do.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, look, violations } from "./browser";
import { Chat, words, type Kept } from "./chatting";
import { Pool } from "./stack";

const FACTOR = 5;
/** What a quiet machine does in a second, a busy one may do in five. */

let pool: Pool;
let browser: Browser;
let key: string;
let parrot: string;
let joined: string;

beforeAll(async () => {
  const env = { PARHELION_NODES_PROBE: "false" };
  [pool, browser] = await Promise.all([Pool.startWith(env), launch()]);
  pool.join("--name", "joined");
  [key, joined] = await Promise.all([pool.key("50000000"), pool.ready("joined")]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

async function visit(flow: (chat: Chat, page: Page) => Promise<void>, kept?: Kept): Promise<void> {
  const chat = await Chat.open(browser, pool, kept ?? { key, node: parrot, elsewhere: false });
  await flow(chat, chat.page);
  expect(chat.watched.faults).toEqual([]);
  await chat.close();
}

const sound = async (page: Page): Promise<void> => expect(await violations(page)).toEqual([]);
const textOf = (chat: Chat) => chat.answers.last().locator(".text").innerText();

/** Collects from now on what stands under a growing answer; of a whole one nothing does. */
async function tellingOf(page: Page): Promise<() => Promise<string[]>> {
  const found = await page.evaluateHandle(() => {
    const told: string[] = [];
    const look = () => told.push(document.querySelector(".by")?.textContent ?? "");
    const changes = { subtree: true, childList: true, characterData: true };
    new MutationObserver(look).observe(document.body, changes);
    return told;
  });
  return () => found.jsonValue();
}

it("goes on elsewhere when a node is killed in the middle, and says so quietly", () =>
  visit(
    async (chat, page) => {
      await chat.write("Tell me a long story about the sea.");
      await chat.message.press("Enter");
      await chat.streaming();
      await chat.answers.last().getByText("answering: joined", { exact: true }).waitFor();
      const told = await tellingOf(page);
      await pool.nodes[0]!.kill();
      const answer = await chat.answered();
      await answer.getByText(/^↻ continued on /).waitFor();
      // It was told while the rest still came, and not only at the end.
      expect(await told()).toContainEqual(expect.stringMatching(/^↻ continued on \S+$/));
      const figures = await chat.figures(answer);
      expect(figures.node).toMatch(/^joined, then \S+$/);
      expect(figures.tokens).toMatch(/\+ 160$/);
      expect(await answer.locator(".note.wrong").count()).toBe(0);
      await chat.announced.getByText("It was continued on").waitFor({ state: "attached" });
      const moved = await textOf(chat);
      await sound(page);
      await look(page, "chat-moved");
      await chat.button("Receipt", answer).click();
      const dialog = page.getByRole("dialog", { name: "Receipt" });
      await dialog.getByText("Every check that could be made here holds.").waitFor();
      await page.keyboard.press("Escape");
      // The same words from the node that stayed: none was lost, doubled or changed.
      await chat.button("Regenerate", answer).click();
      await chat.answers.getByText("2/2").waitFor();
      expect(await textOf(chat)).toBe(moved);
      expect((await chat.figures(chat.answers.last())).node).not.toContain("joined");
    },
    { key, node: joined, elsewhere: true, temperature: "0", max_tokens: "160" },
  ));

/** A node that says again what it is told; not there while a real answer moves. */
async function withParrot(): Promise<void> {
  pool.parrot("parrot", 150);
  parrot = await pool.ready("parrot");
}

const HIT = "globalThis.hit=1;fetch('/hit')";
const HOSTILE = `# <img src=x onerror="${HIT}">

<script>${HIT}</script><script src="https://evil.example/x.js"></script>
<img src=/hit onerror="${HIT}"><svg onload="${HIT}"><animate onbegin="${HIT}" attributeName=x /></svg>
<iframe src="javascript:parent.${HIT}"></iframe><iframe srcdoc="<script>parent.${HIT}</script>"></iframe>
<style>body{background:url(https://evil.example/a)}</style><link rel=stylesheet href=https://evil.example/b>
<a href="javascript:${HIT}">html link</a> <base href="https://evil.example/"> <form action=/hit><button>go</button></form>
<object data="data:text/html,<script>${HIT}</script>"></object><embed src=/hit><video src=/hit><audio src=/hit>
<meta http-equiv="refresh" content="0;url=https://evil.example/">

[one](javascript:${HIT}) [two](JaVaScRiPt:${HIT}) [three](data:text/html,<script>${HIT}</script>)
[four](java&#x0A;script:${HIT}) [five](vbscript:x) [six](/v1/session) [seven](//evil.example/ "a\\" onmouseover=${HIT}")
![picture](https://evil.example/p.png) ![own](/hit) <https://evil.example/auto>

<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=${HIT}&gt;">
<svg></p><style><a id="</style><img src=1 onerror=${HIT}>">
<noscript><p title="</noscript><img src=x onerror=${HIT}>">
<form><math><mtext></form><form><mglyph><style></math><img src onerror=${HIT}>

\`\`\`html"><img src=x onerror=${HIT}>
<img src=x onerror=${HIT}>
\`\`\`

| a | <b onclick="${HIT}">b</b> |
|---|---|
| <img src=/hit onerror=${HIT}> | $\\href{javascript:${HIT}}{x}$ |

$\\includegraphics{https://evil.example/m.png}$ $\\style{background:url(/hit)}{x}$ $\\text{<img src=x onerror=${HIT}>}$

$$\\class{x" onclick="${HIT}}{y}$$`;

describe("with a node that says what it is told", () => {
  beforeAll(withParrot);

  it("runs nothing of a hostile answer, asks nobody for anything, and shows it as text", () =>
    visit(async (chat, page) => {
      const asked: string[] = [];
      const said: string[] = [];
      page.on("request", (one) => asked.push(one.url()));
      page.on("console", (one) => said.push(one.text()));
      page.on("dialog", (one) => said.push(one.message()));
      const harmless = async (): Promise<void> => {
        expect(await page.evaluate(() => "hit" in globalThis)).toBe(false);
        expect(asked.filter((url) => /hit|evil|\/x$|\/1$/.test(url))).toEqual([]);
        expect(said).toEqual([]);
        // Behind the # stands which conversation it is, and nothing that was said.
        expect(page.url().replace(/#[0-9a-f]{32}$/, "")).toBe(`${pool.web}/`);
        const strange =
          "script, iframe, object, embed, form form, base, style, img, svg, video, audio";
        expect(await page.locator("article").locator(strange).count()).toBe(0);
        const handlers = await page
          .locator("article *")
          .evaluateAll((all) =>
            all.flatMap((one) =>
              [...one.attributes]
                .filter(({ name }) => /^on|^style$/.test(name))
                .map((at) => at.name),
            ),
          );
        expect(handlers).toEqual([]);
      };
      const answer = await chat.ask(HOSTILE);
      // The whole of it came, and stands there as text.
      expect(await answer.locator(".text").innerText()).toContain("<script>");
      await harmless();
      const links = await answer
        .locator("a[href]")
        .evaluateAll((all) => all.map((one) => (one as HTMLAnchorElement).href));
      expect(links.filter((one) => !/^https?:\/\/evil\.example\//.test(one))).toEqual([]);
      for (const name of ["one", "two", "three", "four", "six"]) {
        await answer.getByText(name, { exact: true }).first().click();
      }
      await harmless();
      await sound(page);
      // The conversation scrolls, and the page itself does not.
      expect(await page.evaluate(() => document.documentElement.scrollHeight - innerHeight)).toBe(
        0,
      );
      await look(page, "chat-hostile");
      await page.reload();
      await page.locator("#drawer .open").first().click();
      await chat.answered();
      await harmless();
    }));

  it("says that credit is short and what to do, and keeps the question", async () => {
    const poor = await pool.key("300");
    await visit(
      async (chat, page) => {
        const answer = await chat.ask("Too dear for me.");
        await answer.locator(".note.wrong").waitFor();
        await answer.getByRole("link", { name: "To your account" }).waitFor();
        await sound(page);
        await look(page, "chat-short");
        expect(await chat.questions.last().innerText()).toContain("Too dear for me.");
        await chat.announced.getByText("The answer failed.").waitFor({ state: "attached" });
        // What to do: pay, here by a key with more on it, and try again.
        await page.evaluate((key) => sessionStorage.setItem("parhelion.key", key), key);
        await chat.button("Try again", answer).click();
        await chat.answers.getByText("2/2").waitFor();
        expect(await textOf(chat)).toBe("Too dear for me.");
      },
      { key: poor, node: parrot },
    );
  });

  it("keeps the message of who is not signed in, says what to do, and sends it afterwards", () =>
    visit(
      async (chat, page) => {
        await page.getByRole("link", { name: "Sign in", exact: true }).waitFor();
        await chat.write("Asked too early.");
        await chat.message.press("Enter");
        const form = page.getByRole("form", { name: "Your message" });
        await form.getByText("Your message is kept in this tab").waitFor();
        expect(await chat.message.inputValue()).toBe("Asked too early.");
        expect(await chat.answers.count()).toBe(0);
        await form.getByRole("link", { name: "Create an account" }).waitFor();
        await sound(page);
        await look(page, "chat-stranger");
        await form.getByRole("link", { name: "Try with test money" }).click();
        await chat.button("Try with test money").click();
        await page.getByRole("heading", { name: "Balance", exact: true }).waitFor();
        await page.getByRole("link", { name: "Chat", exact: true }).click();
        await page.getByRole("link", { name: /USDC\.local/ }).waitFor();
        await expect.poll(() => chat.message.inputValue()).toBe("Asked too early.");
        await chat.message.press("Enter");
        await chat.answered();
        expect(await textOf(chat)).toBe("Asked too early.");
        // Sent once: the next visit does not bring it again.
        await page.goto(pool.web);
        expect(await chat.message.inputValue()).toBe("");
      },
      { node: parrot },
    ));

  it("refuses a prompt of 100 kB in clear words, and stays quick", () =>
    visit(async (chat, page) => {
      const long = "A word of a very long prompt. ".repeat(3500);
      await page.evaluate(() => {
        const seen: number[] = [];
        Object.assign(globalThis, { seen });
        new PerformanceObserver((list) =>
          list.getEntries().forEach((one) => seen.push(one.duration)),
        ).observe({ type: "longtask" });
      });
      const longest_ms = (): Promise<number> =>
        page.evaluate(() =>
          Math.max(0, ...(globalThis as unknown as { seen: number[] }).seen.splice(0)),
        );
      await chat.write(long);
      await page.keyboard.type("and more");
      await page.getByText(/maximum context length is 8192 tokens/).waitFor();
      expect(await longest_ms()).toBeLessThan(200 * FACTOR);
      await sound(page);
      await longest_ms(); // Of the look at the page, which is none of its own.
      await chat.message.press("Enter");
      const answer = await chat.answered();
      await answer.getByText(/maximum context length is 8192 tokens/).waitFor();
      await chat.button("Show all 105,008 characters").waitFor();
      expect(await longest_ms()).toBeLessThan(200 * FACTOR);
      await look(page, "chat-long");
      // It is not sent again with what follows, which would be refused for it.
      await answer.getByText("left out of what you ask next").waitFor();
      await chat.ask("Something short.");
      expect(await textOf(chat)).toBe("Something short.");
      await chat.button("Edit", chat.questions.first()).click();
      await page.getByLabel("Another wording of your message").fill("Shorter.");
      await page.keyboard.press("Enter");
      await chat.questions.getByText("2/2").waitFor();
      await chat.answered();
      expect(await textOf(chat)).toBe("Shorter.");
    }));

  /** A file of so many conversations, each of a question and a long answer. */
  function many(count: number): string {
    const facts = { state: "done" };
    const conversations = Array.from({ length: count }, (_, at) => ({
      id: `c${at}`,
      title: `Talk ${at} of many`,
      created_at_ms: 1e12 + at,
      changed_at_ms: 1e12 + at,
      messages: [
        { id: `q${at}`, parent: null, role: "user", text: `Talk ${at}`, files: [], at_ms: 1e12 },
        {
          ...{ id: `a${at}`, parent: `q${at}`, role: "assistant", facts, files: [], at_ms: 1e12 },
          text: words(800),
        },
      ],
      chosen: {},
    }));
    const head = { format: "parhelion.chat", version: 1, exported_at_ms: 1e12 };
    return JSON.stringify({ ...head, conversations });
  }

  it("opens and searches 500 conversations at once", () =>
    visit(async (chat, page) => {
      await page.locator("#drawer input[type=file]").setInputFiles({
        name: "many.json",
        mimeType: "application/json",
        buffer: Buffer.from(many(500)),
      });
      await page.getByText("500 imported.").waitFor();
      await page.reload();
      const list = page.locator("#drawer li");
      const shown = await page.waitForFunction(
        () => document.querySelectorAll("#drawer li").length === 500 && performance.now(),
      );
      expect(await shown.jsonValue()).toBeLessThan(1000 * FACTOR);
      // From the key to the list that it leaves, in the page's own time.
      const searched_ms = await page.evaluate(async () => {
        const field = document.querySelector<HTMLInputElement>("#drawer input[type=search]")!;
        const begun_ms = performance.now();
        field.value = "talk 499";
        field.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
        return performance.now() - begun_ms;
      });
      expect(await list.count()).toBe(1);
      expect(searched_ms).toBeLessThan(100 * FACTOR);
      await chat.button("Talk 499 of many").click();
      await chat.answered();
      await sound(page);
      await look(page, "chat-many");
    }));

  it("says that the session has ended, and goes on after signing in again", () =>
    visit(
      async (chat, page) => {
        await page.goto(`${pool.web}/account#test`);
        await chat.button("Try with test money").click();
        await page.getByRole("heading", { name: "Balance", exact: true }).waitFor();
        await page.goto(pool.web);
        await chat.ask("Before");
        // Ended elsewhere, as one that expires is; its cookie stays in this browser.
        const [cookie] = await chat.watched.context.cookies();
        await page.request.delete(`${pool.web}/v1/session`);
        await chat.watched.context.addCookies([cookie!]);
        const failed = await chat.ask("After");
        await failed
          .locator(".note.wrong")
          .getByText(/session/i)
          .first()
          .waitFor();
        await failed.getByText(/^sign in again, then try again/i).waitFor();
        await failed.getByRole("link", { name: "To your account" }).waitFor();
        await page.getByRole("link", { name: "Sign in" }).first().waitFor();
        await sound(page);
        await look(page, "chat-ended");
        await failed.getByRole("link", { name: "To your account" }).click();
        await chat.button("Try with test money").click();
        await page.getByRole("heading", { name: "Balance", exact: true }).waitFor();
        await page.goto(pool.web);
        await page.locator("#drawer .open").first().click();
        await chat.button("Try again").click();
        await chat.answers.getByText("2/2").waitFor();
        expect(await textOf(chat)).toBe("After");
      },
      { node: parrot },
    ));

  // Last: nothing of this pool's is as it was, afterwards.
  it("keeps what came when the coordinator is killed, and asks again once it is back", () =>
    visit(async (chat, page) => {
      await chat.write(words(300));
      await chat.message.press("Enter");
      const answer = await chat.streaming(/^word0 word1 word2/);
      await pool.crash();
      await answer.locator(".note.wrong").waitFor();
      expect(await textOf(chat)).toMatch(/^word0 word1 /);
      await chat.announced.getByText("The answer failed.").waitFor({ state: "attached" });
      await sound(page);
      await look(page, "chat-crash");
      const second = await chat.ask("Is anybody there?");
      await second.getByText("The coordinator does not answer.").waitFor();
      await pool.begin();
      await pool.ready("parrot");
      await chat.button("Try again").click();
      await chat.answers.getByText("2/2").waitFor();
      await expect.poll(() => textOf(chat)).toBe("Is anybody there?");
      await page.reload();
      await page.locator("#drawer .open").first().click();
      expect(await chat.answers.first().locator(".text").innerText()).toMatch(/^word0 word1 /);
    }));
});
