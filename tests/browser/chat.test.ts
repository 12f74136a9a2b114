// The chat as people use it: every step in a real browser, against a real coordinator and nodes.

import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page, Response } from "playwright-core";
import { launch, look, sideways, violations } from "./browser";
import { Chat, plain, words, type Kept } from "./chatting";
import { Pool } from "./stack";

const PACE_TOKENS_PER_S = 150;
/** Quick enough for a test. */

const SLOW_TOKENS_PER_S = 30;
/** Half a minute of answer: it is looked at, which takes seconds, and is stopped in its middle. */

const FACTOR = 5;
/** What a quiet machine does in a second (`python -m bench pages`), a busy one may do in five. */

let pool: Pool;
let browser: Browser;
let key: string;
let parrot: string;
let slow: string;
let real: string;

beforeAll(async () => {
  // Probes would find that a parrot is no model; only this test's prompts are asked.
  const env = { PARHELION_NODES_PROBE: "false" };
  [pool, browser] = await Promise.all([Pool.startWith(env), launch()]);
  pool.parrot("parrot", PACE_TOKENS_PER_S);
  pool.parrot("slow", SLOW_TOKENS_PER_S);
  [key, parrot, slow] = await Promise.all([
    pool.key("50000000"),
    pool.ready("parrot"),
    pool.ready("slow"),
  ]);
  const { data } = await pool.get<{ data: { peer: string }[] }>("/v1/nodes");
  real = data.find(({ peer }) => peer !== parrot && peer !== slow)!.peer;
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** A person whose node says again what they write, unless they choose otherwise. */
async function visit(
  flow: (chat: Chat, page: Page) => Promise<void>,
  kept: Kept = { key, node: parrot, elsewhere: false },
  more: Parameters<Browser["newContext"]>[0] = {},
): Promise<void> {
  const chat = await Chat.open(browser, pool, kept, more);
  await flow(chat, chat.page);
  expect(chat.watched.faults).toEqual([]);
  await chat.close();
}

const sound = async (page: Page): Promise<void> => expect(await violations(page)).toEqual([]);

/** No dialog is there any more: one that closes has no role, and is still there for a moment. */
const closed = (page: Page) => page.locator("dialog").waitFor({ state: "detached" });

function asked<T>(path: string, secret = key): Promise<T> {
  return pool.get<T>(path, { authorization: `Bearer ${secret}` });
}

/** The real model says the same each time, and not much: what it says is else up to chance. */
const SHORT = { temperature: "0", max_tokens: "64" };

describe("the first visit", () => {
  it("leads from a key to a whole answer of the real model, with what it cost", () =>
    visit(
      async (chat, page) => {
        await page.getByRole("heading", { name: "Ask an open model." }).waitFor();
        await page.getByRole("link", { name: "Create an account" }).waitFor();
        await sound(page);
        await page.getByLabel("Or paste an API key").fill("sk-prl-wrong");
        await chat.button("Use it").click();
        await page.getByRole("alert").getByText("does not know this key").waitFor();
        await page.getByLabel("Or paste an API key").fill(key);
        await chat.button("Use it").click();
        await page.getByRole("link", { name: /^50\.00 PRLX\.local/ }).waitFor();
        await look(page, "chat-welcome");

        await chat.write("Name three colours.");
        await page.getByText(/^at most 0\./).waitFor();
        const quote = await quoted("Name three colours.");
        expect(await page.locator("#cost").innerText()).toBe(
          `at most ${plain(quote.cost)} PRLX.local`,
        );
        await chat.message.press("Enter");
        await chat.announced.getByText("Waiting for the answer.").waitFor({ state: "attached" });
        const answer = await chat.answered();
        await chat.announced.getByText(/^Answer finished\./).waitFor({ state: "attached" });
        expect((await answer.locator(".text").innerText()).length).toBeGreaterThan(0);
        const figures = await chat.figures(answer);
        expect(figures.model).toBe("HuggingFaceTB/SmolLM2-135M-Instruct");
        expect(figures.tokens).toMatch(/^[\d,]+ \+ [\d,]+$/); // A long answer has thousands.
        await sound(page);
        // A reload keeps the conversation, which stands there again, and the key in this tab.
        await page.reload();
        expect(await chat.figures(await chat.answered())).toEqual(figures);
        await page.getByRole("button", { name: "Name three colours.", exact: true }).click();
        expect(await chat.figures(await chat.answered())).toEqual(figures);
      },
      { ...SHORT, node: real, elsewhere: false },
    ));

  it("leads from test money to an answer in a few clicks", () =>
    visit(
      async (chat, page) => {
        await page.getByRole("link", { name: "Try with test money" }).click();
        await chat.button("Try with test money").click();
        await page.getByRole("heading", { name: "Balance", exact: true }).waitFor();
        await page.getByRole("link", { name: "Chat", exact: true }).click();
        await page.getByRole("link", { name: /^1\.00 USDC\.local/ }).waitFor();
        const answer = await chat.ask("Hello");
        expect((await chat.figures(answer)).cost).toMatch(/^0\.\d+ USDC\.local$/);
        await page.getByRole("link", { name: /^0\.99\d* USDC\.local/ }).waitFor();
      },
      { ...SHORT, max_tokens: "8" },
    ));
});

function quoted(content: string): Promise<{ cost: string }> {
  return fetch(`${pool.api}/v1/quote`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({
      messages: [{ role: "user", content }],
      max_tokens: Number(SHORT.max_tokens),
    }),
  }).then((response) => response.json() as Promise<{ cost: string }>);
}

it("shows of each answer who made it, how quickly, and what the ledger charged", () =>
  visit(async (chat, page) => {
    const before = await asked<{ available: string }>("/v1/credits/balance");
    await chat.write(words(250));
    await chat.message.press("Enter");
    await chat.streaming();
    // Held while it comes, and none of it after.
    await expect
      .poll(() => page.getByRole("link", { name: /held$/ }).innerText())
      .not.toMatch(/\b0\.00 held/);
    const answer = await chat.answered();
    const figures = await chat.figures(answer);
    expect(figures.node).toBe("parrot");
    expect(figures.speed).toMatch(/^[\d,]+ tokens\/s$/);
    expect(Number.parseInt(figures.speed!)).toBeGreaterThan(PACE_TOKENS_PER_S / 3);
    expect(Number.parseInt(figures.speed!)).toBeLessThan(PACE_TOKENS_PER_S * 1.5);
    expect(figures["first token"]).toMatch(/^\d+(\.\d\d)? s$/); // From ten seconds on, whole ones.
    const after = await asked<{ available: string; held: string }>("/v1/credits/balance");
    const [charge] = (
      await asked<{ data: { kind: string; amount: string }[] }>("/v1/credits/history")
    ).data.filter((one) => one.kind === "charge");
    const cost = charge!.amount.replace("-", "");
    expect(figures.cost).toBe(`${plain(cost)} PRLX.local`);
    expect(BigInt(before.available) - BigInt(after.available)).toBe(BigInt(cost));
    const left = new RegExp(`^${plain(after.available).replaceAll(".", "\\.")} PRLX`);
    await page.getByRole("link", { name: left }).waitFor();
  }));

it("loads little before it can be used, and soon can be", () =>
  visit(async (_chat, page) => {
    const scripts: Response[] = [];
    page.on("response", (one) => {
      if (one.request().resourceType() === "script") scripts.push(one);
    });
    const begun_ms = Date.now();
    await page.reload({ waitUntil: "domcontentloaded" });
    await page.locator(".pick .dot.ready").waitFor();
    expect(Date.now() - begun_ms).toBeLessThan(1000 * FACTOR);
    await page.waitForLoadState("networkidle");
    const sizes = await Promise.all(scripts.map(async (one) => gzipSync(await one.body()).length));
    expect(sizes.length).toBeGreaterThan(1);
    expect(sizes.reduce((all, one) => all + one, 0)).toBeLessThan(60_000);
  }));

describe("a receipt", () => {
  it("is checked in the page, in words, and kept byte for byte", () =>
    visit(async (chat, page) => {
      await chat.button("Receipt", await chat.ask("A receipt, please.")).click();
      const dialog = page.getByRole("dialog", { name: "Receipt" });
      await dialog.getByText("Every check that could be made here holds.").waitFor();
      const checks = await dialog.locator("ul > li").allInnerTexts();
      expect(checks.length).toBeGreaterThanOrEqual(7);
      // Who the coordinator is, a page that it served cannot prove; all else holds.
      const unproven = checks.filter((one) => !/\bholds\b/.test(one));
      expect(unproven.every((one) => one.includes("identity"))).toBe(true);
      await sound(page);
      await look(page, "receipt");
      const loading = page.waitForEvent("download");
      await chat.button("Download", dialog).click();
      const kept = readFileSync(await (await loading).path(), "utf-8");
      const { id } = JSON.parse(kept) as { id: string };
      const headers = { authorization: `Bearer ${key}` };
      expect(kept).toBe(await (await fetch(`${pool.api}/v1/receipts/${id}`, { headers })).text());
      await page.keyboard.press("Escape");
      await closed(page);
    }));

  it("that was tampered with is refused, and the page says which check failed", () =>
    visit(async (chat, page) => {
      const answer = await chat.ask("Not this one.");
      await page.route("**/v1/receipts/*", async (route) => {
        const text = await (await route.fetch()).text();
        const body = text.replace(
          /("completion_tokens":)(\d+)/,
          (_, name, n) => `${name}${+n + 1}`,
        );
        await route.fulfill({ body, contentType: "application/json" });
      });
      await chat.button("Receipt", answer).click();
      const dialog = page.getByRole("dialog", { name: "Receipt" });
      await dialog.getByText("This receipt does not hold.").waitFor();
      const failed = await dialog.locator("li.failed").allInnerTexts();
      expect(failed.some((one) => one.includes("signature"))).toBe(true);
      await sound(page);
      await look(page, "receipt-tampered");
    }));
});

const RICH = `<think>The person wants a bit of everything.</think>

## A heading

Some **bold**, \`code\` and [a link](https://example.org/).

| name | value |
|---|---:|
| sun | 1 |

\`\`\`python
def greet(name):
    return f"Hello {name}"
\`\`\`

The area is $\\pi r^2$.

$$\\frac{a}{b}$$`;

it("draws markdown, a table, code that can be copied, and mathematics; reasoning is folded", () =>
  visit(
    async (chat, page) => {
      const answer = await chat.ask(RICH);
      await answer.getByRole("heading", { name: "A heading" }).waitFor();
      await answer.getByRole("cell", { name: "sun" }).waitFor();
      expect(await answer.getByRole("link", { name: "a link" }).getAttribute("rel")).toContain(
        "noopener",
      );
      await answer.locator(".hljs-keyword", { hasText: "def" }).waitFor();
      expect(await answer.locator("math").count()).toBe(2);
      await answer.locator("math mfrac").waitFor();
      await chat.button(/^Copy\s+this code/, answer).click();
      await answer.getByText("Copied").first().waitFor();
      expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(
        'def greet(name):\n    return f"Hello {name}"',
      );
      const thought = answer.getByText("wants a bit of everything");
      expect(await thought.isVisible()).toBe(false);
      await answer.getByText("Reasoning").click();
      expect(await thought.isVisible()).toBe(true);
      await sound(page);
      await page.emulateMedia({ colorScheme: "dark" });
      await sound(page);
      await look(page, "chat-rich");
      expect(await sideways(page)).toBe(0);
    },
    undefined,
    { permissions: ["clipboard-read", "clipboard-write"] },
  ));

it("is stopped, asked again, worded anew, and leads back to every branch", () =>
  visit(
    async (chat, page) => {
      await chat.write(words(400));
      await chat.message.press("Enter");
      const first = await chat.streaming(/^word0 word1/);
      expect(await chat.message.isEnabled()).toBe(true);
      await first.getByText("answering: slow", { exact: true }).waitFor();
      await sound(page);
      await look(page, "chat-streaming");
      await chat.button("Stop").click();
      await first.getByText("You stopped this answer.").waitFor();
      expect(await first.getByText(/^answering/).count()).toBe(0);
      const kept = await first.locator(".text").innerText();
      expect(kept).toMatch(/^word0 word1/);
      // Billed all the same, by the receipt: for what was delivered, not for the whole.
      await expect.poll(async () => (await chat.figures(first)).cost).toMatch(/^0\./);
      await look(page, "chat-stopped");

      await chat.button("Regenerate", first).click();
      await chat.streaming();
      await page.keyboard.press("Escape");
      await chat.answers.getByText("You stopped this answer.").waitFor();
      await chat.answers.getByText("2/2").waitFor();
      await chat.button("The answer before", chat.answers.first()).click();
      expect(await chat.answers.first().locator(".text").innerText()).toBe(kept);

      await chat.button("Edit", chat.questions.first()).click();
      const wording = page.getByRole("textbox", { name: "Another wording of your message" });
      await wording.fill("Something short.");
      await sound(page);
      await wording.press("Enter");
      expect(await (await chat.answered()).locator(".text").innerText()).toBe("Something short.");
      await chat.questions.getByText("2/2").waitFor();
      await chat.button("The wording before", chat.questions.first()).click();
      expect(await chat.answers.first().locator(".text").innerText()).toBe(kept);
      await chat.button("The next wording").click();
      await chat.button("Branch", chat.answers.last()).click();
      await chat.announced.getByText("A new conversation").waitFor({ state: "attached" });
      await expect.poll(() => page.locator("#drawer li").count()).toBe(2);
      await sound(page);
    },
    { key, node: slow, elsewhere: false },
  ));

it("asks before it is left in the middle of an answer, and never else", () =>
  visit(
    async (chat, page) => {
      const asked: string[] = [];
      page.on("dialog", (one) => {
        asked.push(one.type());
        void one.dismiss();
      });
      await chat.write(words(400));
      await chat.message.press("Enter");
      const answer = await chat.streaming();
      await page.getByRole("link", { name: "Console", exact: true }).click();
      await expect.poll(() => asked).toEqual(["beforeunload"]);
      // Who stays has lost nothing: it goes on.
      const come = (await answer.locator(".text").innerText()).length;
      await expect
        .poll(async () => (await answer.locator(".text").innerText()).length)
        .toBeGreaterThan(come);
      await chat.button("Stop").click();
      await chat.answered();
      await page.getByRole("link", { name: "Console", exact: true }).click();
      await page.waitForURL(`${pool.web}/console`);
      expect(asked).toEqual(["beforeunload"]);
    },
    { key, node: slow, elsewhere: false },
  ));

it("keeps conversations: found, renamed, deleted and brought back, taken out and in again", () =>
  visit(async (chat, page) => {
    const list = page.locator("#drawer li");
    for (const text of ["About apples", "About pears", "About plums"]) {
      await chat.button("+ New chat").click();
      await chat.ask(text);
    }
    await expect.poll(() => list.count()).toBe(3);
    await page.getByRole("searchbox").fill("PEARS about");
    await expect.poll(() => list.count()).toBe(1);
    await page.getByRole("searchbox").fill("");
    await chat.button("Rename About pears").click();
    await page.getByRole("textbox", { name: "Title" }).fill("Fruit");
    await page.keyboard.press("Enter");
    await chat.button("Fruit").click();
    await page.getByRole("heading", { name: "Fruit" }).waitFor();
    await chat.button("Delete About apples").click();
    await expect.poll(() => list.count()).toBe(2);
    await chat.button("Undo").click();
    await expect.poll(() => list.count()).toBe(3);

    const loading = page.waitForEvent("download");
    await chat.button("Export", page.locator("#drawer")).click();
    const file = await (await loading).path();
    for (const name of ["About apples", "Fruit", "About plums"]) {
      await chat.button(`Delete ${name}`).click();
    }
    await page.getByText("No conversation yet.").waitFor();
    await page.locator("#drawer input[type=file]").setInputFiles(file);
    await page.getByText("3 imported.").waitFor();
    await chat.button("Fruit").click();
    expect(await (await chat.answered()).locator(".text").innerText()).toBe("About pears");
    await page.locator("#drawer input[type=file]").setInputFiles({
      name: "no.json",
      mimeType: "application/json",
      buffer: Buffer.from('{"format": "else"}'),
    });
    await page.getByRole("alert").getByText("no file of conversations").waitFor();
    await sound(page);
  }));

it("sends what was chosen: model, node by name, system prompt and sampling, and nothing else", () =>
  visit(
    async (chat, page) => {
      await chat.button(/Choose model|SmolLM2/).click();
      const picker = page.getByRole("dialog", { name: "Model and node" });
      await picker.getByRole("radio", { name: /^parrot/ }).check();
      await sound(page);
      await look(page, "chat-picker");
      await chat.button("Close", picker).click();
      await page.locator(".pick", { hasText: "parrot" }).waitFor();

      await chat.button("System prompt and sampling").click();
      const panel = page.getByRole("dialog", { name: "System prompt and sampling" });
      await panel.getByLabel("System prompt").fill("Answer briefly.");
      await panel.getByLabel("Temperature").fill("9");
      await panel.getByText(/a number from 0 to/).waitFor();
      await panel.getByLabel("Temperature").fill("0.5");
      await panel.getByLabel("Seed").fill("9007199254740993");
      await panel.getByLabel(/^Stop at any/).fill("END");
      await sound(page);
      await look(page, "chat-sampling");
      await chat.button("Done", panel).click();
      await closed(page);

      const sending = page.waitForRequest((one) => one.url().endsWith("/v1/chat/completions"));
      const answer = await chat.ask("Up to here END and no further");
      const sent = (await sending).postData()!;
      expect(sent).toContain('"seed":9007199254740993');
      expect(JSON.parse(sent)).toMatchObject({
        messages: [
          { role: "system", content: "Answer briefly." },
          { role: "user", content: "Up to here END and no further" },
        ],
        provider: { order: [parrot], allow_fallbacks: true },
        temperature: 0.5,
        stop: ["END"],
        stream: true,
      });
      expect(JSON.parse(sent)).not.toHaveProperty("top_p");
      expect((await answer.locator(".text").innerText()).trim()).toBe("Up to here");
      expect((await chat.figures(answer)).node).toBe("parrot");
    },
    { key },
  ));

it("takes text files that are dropped or pasted, shows them, and says which are none", () =>
  visit(async (chat, page) => {
    const give = (kind: "drop" | "paste", name: string, text: string) =>
      page.evaluate(
        ({ kind, name, text }) => {
          const carried = new DataTransfer();
          carried.items.add(new File([text], name, { type: "text/plain" }));
          const form = document.querySelector('form[aria-label="Your message"]')!;
          const made =
            kind === "drop"
              ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
              : new ClipboardEvent("paste", {
                  clipboardData: carried,
                  bubbles: true,
                  cancelable: true,
                });
          form.querySelector("textarea")!.dispatchEvent(made);
        },
        { kind, name, text },
      );
    await give("drop", "notes.txt", "apples are red");
    await give("paste", "more.md", "pears are green");
    await give("drop", "picture.bin", "\0\0\0");
    const files = page.getByRole("list", { name: "Files that go with it" });
    await expect.poll(() => files.locator("li").count()).toBe(2);
    await page.getByText("picture.bin is not a text file").waitFor();
    await sound(page);
    await look(page, "chat-files");
    await chat.button("Remove more.md").click();
    const answer = await chat.ask("What colour?");
    const text = await answer.locator(".text").innerText();
    expect(text).toContain("apples are red");
    expect(text).not.toContain("pears");
    await chat.questions.getByRole("list", { name: "Files" }).getByText("notes.txt").waitFor();
  }));

it("is used whole by the keyboard, and says its keys at ?", () =>
  visit(async (chat, page) => {
    const focused = () =>
      page.evaluate(
        () =>
          document.activeElement?.getAttribute("aria-label") ??
          document.activeElement?.textContent?.trim(),
      );
    await expect.poll(focused).toBe("Message");
    await page.keyboard.type("By keys alone");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("in two lines");
    await page.keyboard.press("Enter");
    await chat.answered();
    await expect.poll(focused).toBe("Message");
    // What is typed stays text.
    await page.keyboard.type("n?/");
    expect(await chat.message.inputValue()).toBe("n?/");
    await chat.write("");
    await page.keyboard.press("Shift+Tab");
    for (let step = 0; step < 40 && (await focused()) !== "Regenerate"; step += 1) {
      await page.keyboard.press("Shift+Tab");
    }
    expect(await focused()).toBe("Regenerate");
    await page.keyboard.press("?");
    const keys = page.getByRole("dialog", { name: "Keys" });
    await keys.waitFor();
    await sound(page);
    await look(page, "chat-keys");
    await page.keyboard.press("Escape");
    await closed(page);
    await expect.poll(focused).toBe("Regenerate");
    await page.keyboard.press("Enter");
    await chat.answers.getByText("2/2").waitFor();
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await page.keyboard.press("m");
    const picker = page.getByRole("dialog", { name: "Model and node" });
    await picker.waitFor();
    await page.keyboard.press("Escape");
    await closed(page);
    await page.keyboard.press("s");
    await expect.poll(focused).toBe("Search titles and first words");
    await page.keyboard.press("Tab");
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await page.keyboard.press("n");
    await page.getByRole("heading", { name: "Ask an open model." }).waitFor();
    await expect.poll(focused).toBe("Message");
  }));

it("has on a phone a list that slides over the page and gives the focus back", () =>
  visit(
    async (chat, page) => {
      const list = page.locator("#drawer");
      expect(await list.isVisible()).toBe(false);
      await chat.ask("On a phone");
      await sound(page);
      const toggle = chat.button("Conversations");
      await toggle.click();
      await list.waitFor();
      expect(await toggle.getAttribute("aria-expanded")).toBe("true");
      await sound(page);
      // Of another width it would be another list.
      if (process.env.LOOKS) {
        await page.screenshot({ path: `${process.env.LOOKS}/chat-drawer-mobile.png` });
      }
      await page.keyboard.press("Escape");
      await list.waitFor({ state: "detached" });
      await expect
        .poll(() => page.evaluate(() => document.activeElement?.getAttribute("aria-label")))
        .toBe("Conversations");
      expect(await sideways(page)).toBe(0);
    },
    undefined,
    { viewport: { width: 390, height: 844 }, hasTouch: true, colorScheme: "dark" },
  ));
