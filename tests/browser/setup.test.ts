// The set-up wizard of a pool that serves: made private, then paid again with another price, all of it
// without a restart; a wallet pays what the page says then.

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Browser, Locator, Page } from "playwright-core";
import { launch, sideways, violations, Watched } from "./browser";
import { Pool } from "./stack";
import { giveSolanaWallet } from "./wallets";

/** Five times what it takes on a quiet machine. */
const PATIENT_MS = 30_000;
const CHAT = { messages: [{ role: "user", content: "Hi" }], max_tokens: 4 };

let pool: Pool;
let browser: Browser;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

const button = (page: Page, name: string | RegExp): Locator =>
  page.getByRole("button", { name, exact: typeof name === "string" });

/** The wizard, opened with the admin key, at its step of this name. */
async function wizard(page: Page, step: RegExp): Promise<void> {
  await page.goto(`${pool.web}/setup`);
  await page.getByLabel("Admin key").or(button(page, step)).first().waitFor();
  const key = page.getByLabel("Admin key");
  if (await key.count()) {
    await key.fill(pool.adminKey);
    await button(page, /^Set up the pool/).click();
  }
  await button(page, step).click();
}

async function apply(page: Page): Promise<void> {
  await button(page, "Apply").click();
  await page.getByText("The pool is now set up so.").waitFor();
  expect(await page.getByText("from the next start on").count()).toBe(0);
}

async function asks(path: string): Promise<number> {
  const headers = { "content-type": "application/json" };
  const sent = { method: "POST", headers, body: JSON.stringify(CHAT) };
  const answer = await fetch(pool.api + path, sent);
  await answer.text();
  return answer.status;
}

it("goes from private to paid at a changed price, which a wallet then pays", async () => {
  const watched = await Watched.open(browser);
  const { page } = watched;
  page.setDefaultTimeout(PATIENT_MS);
  await giveSolanaWallet(page);
  await page.route("**/v1/chat/completions", (route) => {
    const brief = { ...route.request().postDataJSON(), temperature: 0, max_tokens: 32 };
    return route.continue({ postData: JSON.stringify(brief) });
  });

  await wizard(page, /Private or paid/);
  await page.getByRole("radio", { name: /^Private/ }).check();
  await button(page, /Review/).click();
  expect(await page.getByRole("row").filter({ hasText: "Kind of pool" }).innerText()).toMatch(
    /paid.*private.*at once/s,
  );
  await apply(page);
  expect(await asks("/v1/chat/completions")).toBe(200);
  expect(await asks("/premium/v1/chat/completions")).toBe(404);
  await page.goto(`${pool.web}/content/premium`);
  await page.getByText("There is no such tier here.").waitFor();

  await wizard(page, /Private or paid/);
  await page.getByRole("radio", { name: /^Paid/ }).check();
  await button(page, "Next").click();
  await page.getByText("these are, as soon as the pool is paid").waitFor();
  const premium = page.getByRole("group", { name: "premium" });
  await premium.getByLabel(/^Price in/).fill("0.375");
  expect(await violations(page)).toEqual([]);
  expect(await sideways(page)).toBe(0);
  await button(page, "Next").click();
  expect(await page.getByRole("row").filter({ hasText: "Tier premium" }).innerText()).toMatch(
    /0\.25,.*0\.375,.*at once/s,
  );
  await apply(page);
  expect(await asks("/v1/chat/completions")).toBe(402);

  await page.goto(`${pool.web}/content/premium`);
  await page.getByRole("heading", { name: "One premium answer: $0.375" }).waitFor();
  await button(page, "Pay $0.375 with Tester Solana").click();
  await button(page, "Get $20 of test money for it").click();
  const words = page.getByRole("group", { name: "You are about to sign" });
  await words.waitFor();
  expect(await words.innerText()).toContain("Pay 0.375 USDC for");
  await words.getByRole("button", { name: "Pay $0.375", exact: true }).click();
  await page.getByRole("heading", { name: "One answer is yours" }).waitFor();

  // Sold no more while it is unspent: the answer that was paid for is still there.
  await wizard(page, /Tiers and rates/);
  await button(page, "Remove premium").click();
  await button(page, "Next").click();
  expect(await page.getByRole("row").filter({ hasText: "Tier premium" }).innerText()).toMatch(
    /no longer sold.*at once/s,
  );
  await apply(page);
  await page.goto(`${pool.web}/content/premium`);
  await page.getByRole("heading", { name: "One answer is yours" }).waitFor();
  await page.getByLabel("Prompt").fill("Name a color.");
  await button(page, "Ask").click();
  await page.getByText(/The answer is whole: \d+ tokens, 0\.375 USDC/).waitFor();
  expect(watched.faults).toEqual([]);
  await watched.close();
});
