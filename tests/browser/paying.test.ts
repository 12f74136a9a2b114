// Money from the page: test money, top-ups by each kind of wallet, history, and an answer by itself.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, look, sideways, violations, Watched } from "./browser";
import { Pool } from "./stack";
import { giveEvmWallet, giveSolanaWallet } from "./wallets";

const PRICE = "0.25";

let pool: Pool;
let browser: Browser;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** A person with a page of this pool, who may have wallets. */
async function visit(
  path: string,
  flow: (page: Page, watched: Watched) => Promise<void>,
  before: (page: Page) => Promise<unknown> = async () => undefined,
): Promise<void> {
  const watched = await Watched.open(browser);
  watched.page.setDefaultTimeout(20_000);
  await before(watched.page);
  await watched.page.goto(pool.web + path);
  await flow(watched.page, watched);
  expect(watched.faults).toEqual([]);
  await watched.close();
}

const button = (page: Page, name: string | RegExp) =>
  page.getByRole("button", { name, exact: typeof name === "string" });
const heading = (page: Page, name: string | RegExp) => page.getByRole("heading", { name });
const said = (page: Page) => page.getByRole("alert");
const available = (page: Page) => page.locator(".available .number").innerText();
const words = (page: Page) => page.getByRole("group", { name: "You are about to sign" });

/** Read what will be signed, and go on. */
async function pay(page: Page, usd: string): Promise<string> {
  await words(page).waitFor();
  const told = await words(page).innerText();
  expect(told).toContain(`Pay ${usd} USDC for`);
  expect(told).toContain("(LOCAL)");
  await words(page)
    .getByRole("button", { name: `Pay $${usd}`, exact: true })
    .click();
  return told;
}

/** The explorer's page of the transaction that was just made shows what moved. */
async function sawOnChain(page: Page, micro: string): Promise<void> {
  const path = await page.getByRole("link", { name: "See the transaction" }).getAttribute("href");
  const headers = { accept: "text/html" };
  const told = await (await page.request.get(pool.web + path!, { headers })).text();
  expect(told).toContain("landed");
  const whole = (Number(micro) / 1e6).toFixed(6);
  expect(told).toContain(`>+${whole} USDC`);
  expect(told).toContain(`>-${whole} USDC`);
}

/** The model says the same each time, and not much: what it says is else up to chance. */
async function askBriefly(page: Page): Promise<void> {
  await page.route("**/v1/chat/completions", (route) => {
    const brief = { ...route.request().postDataJSON(), temperature: 0, max_tokens: 32 };
    return route.continue({ postData: JSON.stringify(brief) });
  });
}

async function openAccount(page: Page): Promise<void> {
  await button(page, "Create with a recovery code").click();
  await button(page, "I have kept it").click();
  await heading(page, "Add credits").waitFor();
}

it("gives who has nothing test money to spend in one click, and shows where it went", () =>
  visit("/account", async (page) => {
    await button(page, "Try with test money").dblclick();
    await heading(page, "Balance").waitFor();
    await expect.poll(() => available(page)).toBe("1.00");
    expect(await page.evaluate(() => document.cookie)).toBe("");
    const link = page.getByRole("link", { name: "Go to the chat" });
    expect(await link.getAttribute("href")).toBe("/");

    const spent = await page.evaluate(async () => {
      const messages = [{ role: "user", content: "Hello" }];
      const body = { messages, max_tokens: 64, stop: [" "], temperature: 0 };
      const headers = { "content-type": "application/json" };
      const init = { method: "POST", headers, body: JSON.stringify(body) };
      return (await (await fetch("/v1/chat/completions", init)).json()) as {
        usage: { cost: string };
      };
    });
    await button(page, "Refresh").click();
    await page.getByText("Charged for an answer").waitFor();
    const table = page.getByRole("region", { name: "Table of entries" });
    expect(await table.getByText("Set aside for an answer").count(), "one line").toBe(0);
    await table.getByRole("button", { name: "3 entries" }).press("Enter");
    for (const what of ["Paid in", "Set aside for an answer", "Returned: not used"]) {
      expect(await table.getByText(what).count()).toBe(1);
    }
    expect(await table.getByRole("link", { name: "transaction" }).count()).toBe(1);
    await look(page, "history");
    expect(await violations(page)).toEqual([]);
    expect(await sideways(page)).toBe(0);
    await table.getByRole("button", { name: "receipt" }).click();
    await page.getByText("Every check that could be made here holds.").waitFor();
    await look(page, "receipt");
    await page.getByRole("button", { name: "Close" }).click();

    await page.reload();
    await heading(page, "Balance").waitFor();
    const left = 1_000_000n - BigInt(spent.usage.cost);
    expect(await page.locator(".available .number").getAttribute("title")).toContain(`${left}`);
    // Who leaves and tries again is the same wallet, and pays no second time.
    await button(page, "Sign out").click();
    await button(page, "Try with test money").click();
    await heading(page, "Balance").waitFor();
    expect(await page.locator(".available .number").getAttribute("title")).toContain(`${left}`);
  }));

it("tops up from an EVM wallet, on the right network, and hears a no", async () => {
  let wallet: Awaited<ReturnType<typeof giveEvmWallet>>;
  await visit(
    "/account",
    async (page) => {
      await openAccount(page);
      await button(page, "Pay $1 with Tester EVM").click();
      await said(page).getByText("this wallet has 0 USDC").waitFor();
      await button(page, "Get $20 of test money for it").click();
      await words(page).waitFor();
      await look(page, "words");
      expect(await violations(page)).toEqual([]);
      expect(await sideways(page)).toBe(0);

      [wallet.chain, wallet.switches] = [1, false];
      await pay(page, "1");
      await said(page).getByText("Tester EVM stayed on another network").waitFor();
      expect(await said(page).innerText()).toContain("Base Sepolia (LOCAL), chain 84532");
      await look(page, "wrong-network");
      [wallet.switches, wallet.rejects] = [true, 0];
      await pay(page, "1");
      await page.getByText("1.00 USDC.local credited.").waitFor();
      expect(wallet.chain).toBe(84532);
      await sawOnChain(page, "1000000");
      await expect.poll(() => available(page)).toBe("1.00");
      await look(page, "credited");

      await button(page, "Pay $1 with Tester EVM").click();
      await words(page).waitFor();
      wallet.rejects = 1;
      await pay(page, "1");
      await said(page)
        .getByText("You declined in Tester EVM. Nothing was signed or paid.")
        .waitFor();
      await button(page, "Cancel").click();
      await page.reload();
      await heading(page, "Balance").waitFor();
      await expect.poll(() => available(page)).toBe("1.00");
    },
    async (page) => {
      wallet = await giveEvmWallet(page);
    },
  );
});

it("tops up each preset from a Solana wallet, in words before it is signed", async () => {
  let wallet: Awaited<ReturnType<typeof giveSolanaWallet>>;
  await visit(
    "/account",
    async (page) => {
      await openAccount(page);
      // It begins with nothing, and has 13.75 left when it is to pay 20.
      const poor = new Map([
        ["0.25", "no USDC account yet"],
        ["20", "13.75 USDC"],
      ]);
      for (const usd of ["0.25", "1", "5", "20"]) {
        await page.getByText(`$${usd}`, { exact: true }).click();
        await button(page, `Pay $${usd} with Tester Solana`).click();
        const has = poor.get(usd);
        if (has) {
          await said(page).getByText(`this wallet has ${has}`).waitFor();
          await button(page, "Get $20 of test money for it").click();
        }
        if (usd === "1") {
          wallet.rejects = 1;
          await pay(page, usd);
          await said(page).getByText("You declined in Tester Solana.").waitFor();
        }
        await pay(page, usd);
        const credited = `${Number(usd).toFixed(2)} USDC.local credited.`;
        await page.getByText(credited).waitFor();
        await sawOnChain(page, String(Number(usd) * 1e6));
      }
      await expect.poll(() => available(page)).toBe("26.25");
      const links = page.getByRole("link", { name: "transaction", exact: true });
      await expect.poll(() => links.count()).toBe(4);
    },
    async (page) => {
      wallet = await giveSolanaWallet(page);
    },
  );
});

it("has one filled button for the next step, and gives the focus back where it is cancelled", () =>
  visit("/account", async (page) => {
    await openAccount(page);
    const opener = button(page, "Pay $1 with Test wallet TEST MONEY");
    const colour = (node: Element) => getComputedStyle(node).backgroundColor;
    const chip = page.getByText("$1", { exact: true });
    expect(await opener.evaluate(colour)).not.toBe(await chip.evaluate(colour));
    await opener.click();
    await words(page).getByText("it has 20.00 USDC, and 19.00 after this.").waitFor();
    expect(await violations(page)).toEqual([]);
    await button(page, "Cancel").click();
    await expect.poll(() => opener.evaluate((node) => node === document.activeElement)).toBe(true);
    await page.getByText("has 20.00 USDC left").waitFor();
    // On the phone the label stands by itself, and nothing wraps beside it.
    await page.setViewportSize({ width: 390, height: 844 });
    const label = (await opener.locator("span").first().boundingBox())!;
    const test = (await opener.getByText("TEST MONEY").boundingBox())!;
    expect(test.y).toBeGreaterThanOrEqual(label.y + label.height);
    expect(label.height).toBeLessThan(30);
    expect(await sideways(page)).toBe(0);
    await opener.click();
    await pay(page, "1");
    await page.getByText("1.00 USDC.local credited.").waitFor();
    // Who paid hears of that, and is not sent back to the button.
    expect(await opener.evaluate((node) => node === document.activeElement)).toBe(false);
    await page.getByText("has 19.00 USDC left").waitFor();
  }));

it("sends the same payment again where no answer came, and makes an old one ready again", () =>
  visit("/account", async (page) => {
    await openAccount(page);
    await button(page, "Pay $1 with Test wallet TEST MONEY").click();
    await words(page).waitFor();
    // It is said how long it can be signed, where nothing reads the seconds aloud.
    const left = words(page).getByText(/^Ready for \d:\d\d more/);
    expect(await left.evaluate((node) => node.closest("[role=status], [aria-live]"))).toBeNull();
    const before = await left.innerText();
    await expect.poll(() => left.innerText()).not.toBe(before);
    // Ten minutes at lunch: what was prepared would land no more.
    await page.evaluate(() => {
      const now = performance.now.bind(performance);
      performance.now = () => now() + 600_000;
    });
    await words(page).getByText("Its time is over").waitFor();
    await words(page).getByRole("button", { name: "Pay $1", exact: true }).click();
    await page.getByText("Too much time had passed").waitFor();

    // The payment arrives and settles; what is said about it does not come back.
    await page.route("**/v1/credits/topup*", async (route) => {
      await route.fetch();
      await route.abort();
    });
    await pay(page, "1");
    await heading(page, "The payment was sent").waitFor();
    await look(page, "untold");
    expect(await violations(page)).toEqual([]);
    await page.unroute("**/v1/credits/topup*");
    await button(page, "Ask again").click();
    await page.getByText("The payment has landed. The credits are on your balance.").waitFor();
    await expect.poll(() => available(page)).toBe("1.00");
    await page.getByText("Paid in").waitFor();
  }));

describe("one answer by itself", () => {
  it("costs what the page says, is asked for once, and has its receipt", () =>
    visit(
      "/content/premium",
      async (page, { context }) => {
        await askBriefly(page);
        const first = await page.request.get(`${pool.web}/content/premium`, {
          headers: { accept: "text/html" },
        });
        expect(first.status()).toBe(402);
        await heading(page, `One premium answer: $${PRICE}`).waitFor();
        const tiers = page.getByRole("navigation", { name: "Tiers" }).getByRole("link");
        expect(await tiers.count()).toBe(3);
        const chosen = page.locator("nav [aria-current=page]").filter({ hasText: "premium" });
        const told = await chosen.innerText();
        for (const one of ["$0.25", "Answer up to 512 tokens", "Prompt up to 4,000 tokens"]) {
          expect(told).toContain(one);
        }
        expect(told).toMatch(/Model \S+/);
        const tops = (await tiers.all()).map(async (one) => (await one.boundingBox())!.y);
        expect(new Set(await Promise.all(tops)).size).toBe(1);
        expect(await page.getByText("to a prompt of at most 4,000 tokens").count()).toBe(1);
        // The one filled button is the one that pays.
        expect(await page.locator("main .primary").allInnerTexts()).toEqual([
          `Pay $${PRICE} with Tester Solana`,
        ]);
        await look(page, "content");
        expect(await violations(page)).toEqual([]);
        await page.emulateMedia({ colorScheme: "dark" });
        expect(await violations(page)).toEqual([]);
        await page.emulateMedia({ colorScheme: "light" });
        await button(page, `Pay $${PRICE} with Tester Solana`).click();
        await button(page, "Get $20 of test money for it").click();
        await pay(page, PRICE);
        await heading(page, "One answer is yours").waitFor();
        await sawOnChain(page, "250000");
        expect(await page.evaluate(() => document.cookie)).toBe("");
        expect((await context.cookies()).every((one) => one.httpOnly)).toBe(true);
        // No script reads what was bought.
        const kept = await page.evaluate(() => JSON.stringify({ ...localStorage }));
        expect(kept).not.toContain("ses-prl");

        const until = await page.getByText(/^Ask until /).innerText();
        await page.getByLabel("Prompt").fill("Name a color.");
        await page.reload();
        await heading(page, "One answer is yours").waitFor();
        expect(await page.getByText(/^Ask until /).innerText()).toBe(until);
        expect(await page.getByLabel("Prompt").inputValue()).toBe("Name a color.");
        await look(page, "content-ask");
        // Too long for the tier: its own limit is told, and the answer is still there to ask for.
        await page.getByLabel("Prompt").fill("word ".repeat(9_000));
        await page.getByLabel("Prompt").press("Enter");
        await said(page).getByText("premium takes a prompt of at most 4,000 tokens").waitFor();
        await page.getByLabel("Prompt").fill("Name a color.");
        await page.getByLabel("Prompt").press("Enter");
        await page.getByText(/The answer is whole: \d+ tokens, 0\.25 USDC/).waitFor();
        expect(await page.locator(".answer").innerText()).not.toBe("");
        await button(page, "Receipt").click();
        await page.getByText("Every check that could be made here holds.").waitFor();
        await look(page, "content-answer");
        await page.getByRole("button", { name: "Close" }).click();
        expect(await violations(page)).toEqual([]);
        const text = await page.locator(".answer").innerText();
        await page.getByText("Kept in your chats, in this browser").waitFor();
        await button(page, "Another answer").click();
        await button(page, `Pay $${PRICE} with Tester Solana`).waitFor();

        // After a reload it is found where it was kept, with its receipt.
        await page.reload();
        await page.getByText("Your last answer is kept in your chats").waitFor();
        expect(await sideways(page)).toBe(0);
        await page.getByRole("link", { name: "Name a color." }).click();
        const chat = page.locator("main");
        const start = text.trim().split(/\s+/)[0]!;
        await expect.poll(() => chat.innerText()).toContain(start);
        await button(page, /receipt/i)
          .first()
          .click();
        await page.getByText("Every check that could be made here holds.").waitFor();
      },
      giveSolanaWallet,
    ));

  it("is bought by who is signed in too, and stands in the way of nothing else of theirs", () =>
    visit("/account", async (page) => {
      await askBriefly(page);
      await button(page, "Try with test money").click();
      await heading(page, "Balance").waitFor();
      await page.goto(`${pool.web}/content/basic`);
      await button(page, "Pay $0.01 with Test wallet TEST MONEY").click();
      await pay(page, "0.01");
      for (const _ of [1, 2]) {
        await heading(page, "One answer is yours").waitFor();
        await page.reload();
      }
      await page.getByLabel("Prompt").fill("Name a color.");
      await button(page, "Ask").click();
      await page.getByText(/The answer is whole: \d+ tokens, 0\.01 USDC/).waitFor();
      await button(page, "Receipt").click();
      await page.getByText("Every check that could be made here holds.").waitFor();
      await page.goto(`${pool.web}/content/premium`);
      await button(page, "Take it from your balance").click();
      await page.getByLabel("Prompt").fill("Name a color.");
      await button(page, "Ask").click();
      await page.getByText(/The answer is whole: \d+ tokens, 0\.25 USDC/).waitFor();
      await button(page, "Receipt").click();
      await page.getByText("Every check that could be made here holds.").waitFor();
    }));

  it("is taken from the balance of who is signed in", () =>
    visit("/account", async (page, { context }) => {
      await askBriefly(page);
      await button(page, "Try with test money").click();
      await heading(page, "Balance").waitFor();
      for (const tier of ["basic", "standard", "premium"]) {
        await page.goto(`${pool.web}/content/${tier}`);
        await heading(page, new RegExp(`^One ${tier} answer`)).waitFor();
        await button(page, "Take it from your balance").waitFor();
        expect(await sideways(page)).toBe(0);
      }
      await button(page, "Take it from your balance").click();
      await page.getByLabel("Prompt").fill("Name a color.");
      await button(page, "Ask").click();
      await page.getByText(/The answer is whole: \d+ tokens, 0\.25 USDC/).waitFor();
      await button(page, "Receipt").click();
      await page.getByText("Every check that could be made here holds.").waitFor();
      await page.goto(`${pool.web}/account`);
      await heading(page, "Balance").waitFor();
      await expect.poll(() => available(page)).toBe("0.75");

      // The session ends elsewhere: its dead cookie is in nobody's way here.
      const cookies = await context.cookies();
      await page.request.delete(`${pool.web}/v1/session`);
      await context.addCookies(cookies);
      expect(cookies.length).toBeGreaterThan(0);
      await page.goto(`${pool.web}/content/premium`);
      await button(page, `Pay $${PRICE} with Test wallet TEST MONEY`).waitFor();
      expect(await button(page, "Take it from your balance").count()).toBe(0);
      await expect.poll(() => context.cookies()).toEqual([]);
    }));
});
