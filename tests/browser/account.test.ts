// Accounts from the page: made, left, come back to, and what they hear when something is wrong.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, look, sideways, violations, Watched } from "./browser";
import { Pool } from "./stack";
import { giveEvmWallet, giveSolanaWallet } from "./wallets";

let pool: Pool;
let browser: Browser;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** A person at the account page; what the page did wrong is looked at when they leave. */
async function visit(
  flow: (page: Page, watched: Watched) => Promise<void>,
  before: (page: Page) => Promise<unknown> = async () => undefined,
): Promise<void> {
  const watched = await Watched.open(browser);
  watched.page.setDefaultTimeout(20_000);
  await before(watched.page);
  await watched.page.goto(`${pool.web}/account`);
  await button(watched.page, "Create with a recovery code").waitFor();
  await flow(watched.page, watched);
  expect(watched.faults).toEqual([]);
  await watched.close();
}

const button = (page: Page, name: string | RegExp) =>
  page.getByRole("button", { name, exact: typeof name === "string" });
const heading = (page: Page, name: string) => page.getByRole("heading", { name, exact: true });
const said = (page: Page) => page.getByRole("alert");

/** Whose account the page shows. */
const who = (page: Page) => page.locator(".who code").innerText();

async function leave(page: Page): Promise<void> {
  await button(page, "Sign out").click();
  await button(page, "Create with a recovery code").waitFor();
}

async function openByCode(page: Page): Promise<string> {
  await button(page, "Create with a recovery code").click();
  await heading(page, "Your recovery code").waitFor();
  return page.locator(".copy code").innerText();
}

/** A request of this page, with its cookie. */
function asked(page: Page, method: string, path: string, body?: unknown, key?: string) {
  return page.evaluate(
    async ({ method, path, body, key }) => {
      const headers: Record<string, string> = { "content-type": "application/json" };
      if (key) headers.authorization = `Bearer ${key}`;
      const init = { method, headers, body: body === undefined ? null : JSON.stringify(body) };
      const response = await fetch(path, init);
      return { status: response.status, body: await response.json() };
    },
    { method, path, body, key },
  );
}

const HELLO = { messages: [{ role: "user", content: "Hello" }], max_tokens: 4 };

describe("a passkey", () => {
  it("opens an account and leads back to it, and no script can read the session", () =>
    visit(async (page, { context }) => {
      const cdp = await context.newCDPSession(page);
      await cdp.send("WebAuthn.enable");
      await cdp.send("WebAuthn.addVirtualAuthenticator", {
        options: {
          protocol: "ctap2",
          transport: "internal",
          hasResidentKey: true,
          hasUserVerification: true,
          isUserVerified: true,
        },
      });
      await button(page, "Create with a passkey").dblclick();
      await heading(page, "Balance").waitFor();
      const account = await who(page);
      // It has no recovery code yet that a new one could replace.
      await button(page, "Make one").waitFor();
      expect(await page.evaluate(() => document.cookie)).toBe("");
      const cookies = await context.cookies();
      expect(cookies).toMatchObject([{ httpOnly: true, sameSite: "Strict" }]);
      await leave(page);
      expect(await context.cookies()).toEqual([]);
      await button(page, "With a passkey").click();
      await heading(page, "Balance").waitFor();
      expect(await who(page)).toBe(account);
    }));

  it("is not made at an address, and the page says why and where instead", async () => {
    const watched = await Watched.open(browser);
    const at = pool.web.replace("localhost", "127.0.0.1");
    await watched.page.goto(`${at}/account`);
    await button(watched.page, "Create with a passkey").waitFor();
    expect(await button(watched.page, "Create with a passkey").isDisabled()).toBe(true);
    const link = watched.page.getByRole("link", { name: /^Open http:\/\/localhost/ });
    expect(await link.getAttribute("href")).toBe(`${pool.web}/account`);
    expect(await watched.page.getByText("is an address").count()).toBe(1);
    await watched.close();
  });
});

it("is led back to by a recovery code, tells a typo, and takes a wallet by proof of both", () =>
  visit(async (page) => {
    await look(page, "welcome");
    const code = await openByCode(page);
    expect(code).toMatch(/^([A-HJKMNP-Z]{4}-){7}[A-HJKMNP-Z]{4}$/);
    await expect.poll(() => page.evaluate(() => document.activeElement?.id)).toBe("recovery-title");
    expect(await violations(page)).toEqual([]);
    await look(page, "recovery");
    await button(page, "I have kept it").click();
    const account = await who(page);
    await leave(page);

    const typo = (code.startsWith("A") ? "B" : "A") + code.slice(1);
    await page.getByLabel("Recovery code").fill(typo);
    await page.getByLabel("Recovery code").press("Enter");
    await said(page).getByText("there is a typo").waitFor();
    await page.getByLabel("Recovery code").fill(code.toLowerCase());
    await page.getByLabel("Recovery code").press("Enter");
    await heading(page, "Balance").waitFor();
    expect(await who(page)).toBe(account);

    await button(page, "Link Tester Solana").click();
    await heading(page, "Tester Solana will sign this text").waitFor();
    expect(await page.getByLabel("Text to sign").innerText()).toContain("wants you to sign in");
    await button(page, "Link this wallet").click();
    await page.getByText("Tester Solana is linked.").waitFor();
    await page.locator("dd code", { hasText: "solana:" }).waitFor();
    expect(await violations(page)).toEqual([]);
    expect(await sideways(page)).toBe(0);
    await leave(page);

    await button(page, "With Tester Solana").click();
    await button(page, "Sign in").first().click();
    await heading(page, "Balance").waitFor();
    expect(await who(page)).toBe(account);
  }, giveSolanaWallet));

it("keeps the old recovery code until the new one is kept, however its answer was lost", () =>
  visit(async (page) => {
    const ways = "**/v1/account/recovery";
    const enter = async (code: string): Promise<void> => {
      await page.getByLabel("Recovery code").fill(code);
      await page.getByLabel("Recovery code").press("Enter");
    };
    const ask = async (): Promise<void> => {
      await button(page, "Make a new one").click();
      await page.getByRole("dialog").getByRole("button", { name: "Make a new one" }).click();
    };
    const first = await openByCode(page);
    await button(page, "I have kept it").click();
    const account = await who(page);
    // Committed, and cut on its way back.
    await page.route(ways, async (route) => {
      await route.fetch();
      await route.abort();
    });
    await ask();
    await said(page).getByText("does not answer").waitFor();
    await page.unroute(ways);
    await leave(page);
    await enter(first);
    await heading(page, "Balance").waitFor();
    expect(await who(page)).toBe(account);

    await ask();
    await heading(page, "Your recovery code").waitFor();
    const second = await page.locator(".copy code").innerText();
    expect(second).not.toBe(first);
    expect(await violations(page)).toEqual([]);
    await look(page, "new-code");
    await page.route(ways, async (route) => {
      await route.fetch();
      await route.abort();
    });
    await button(page, "I have kept it").click();
    await said(page).getByText("does not answer").waitFor();
    expect(await page.locator(".copy code").innerText(), "it can be read still").toBe(second);
    await page.unroute(ways);
    await button(page, "I have kept it").click();
    await page.getByText("The new recovery code is the one that works.").waitFor();
    await leave(page);
    await enter(first);
    await said(page).getByText("no account has this recovery code").waitFor();
    await enter(second);
    await heading(page, "Balance").waitFor();
    expect(await who(page)).toBe(account);
  }));

it("names the account that a payment credits, and tells where another was signed in", () =>
  visit(async (page, { context }) => {
    await openByCode(page);
    await button(page, "I have kept it").click();
    const mine = await who(page);
    const tail = (account: string): string => `acct_…${account.slice(-8)}`;
    const topUp = page.getByRole("region", { name: "Add credits" });
    await topUp.getByText(tail(mine)).waitFor();
    const dialog = page.getByRole("group", { name: "You are about to sign" });
    await button(page, "Pay $1 with Tester EVM").click();
    await button(page, "Get $20 of test money for it").click();
    await dialog.getByText(`The credits go to the account ${tail(mine)}.`).waitFor();
    expect(await dialog.getByRole("alert").count()).toBe(0);
    expect(await violations(page)).toEqual([]);
    await dialog.getByRole("button", { name: "Cancel" }).click();

    // A neighbour on this host signs the browser in as somebody else.
    const made = await fetch(`${pool.api}/v1/accounts/recovery`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    const theirs = ((await made.json()) as { account: string }).account;
    const [name, value] = made.headers.get("set-cookie")!.split(";")[0]!.split("=");
    await context.addCookies([{ name: name!, value: value!, url: pool.web }]);
    await button(page, "Pay $1 with Tester EVM").click();
    await dialog.getByText(`The credits go to the account ${tail(theirs)}.`).waitFor();
    await dialog.getByRole("alert").getByText("not the account that this page shows").waitFor();
    expect(await dialog.getByRole("button", { name: "Pay $1" }).isDisabled()).toBe(true);
    await look(page, "planted");
    expect(await violations(page)).toEqual([]);
  }, giveEvmWallet));

it("has the pages and the way to sign in on one line of a phone", async () => {
  const watched = await Watched.open(browser, { viewport: { width: 390, height: 844 } });
  const { page } = watched;
  await page.goto(`${pool.web}/`);
  const header = page.locator("header");
  await header.getByRole("link", { name: "Sign in" }).waitFor();
  await header.getByText("LOCAL").waitFor();
  const tops = await header.evaluate((one) =>
    [...one.children].map((each) => {
      const box = each.getBoundingClientRect();
      return [box.top + box.height / 2, each.textContent?.trim()] as const;
    }),
  );
  const [first] = tops[0]!;
  for (const [middle, what] of tops) expect(Math.abs(middle - first), what).toBeLessThan(4);
  expect(await sideways(page, 390)).toBe(0);
  expect(await violations(page)).toEqual([]);
  expect(watched.faults).toEqual([]);
  await watched.close();
});

it("shows a wallet's text before it is signed, hears a no, and takes one signature once", async () => {
  let wallet: Awaited<ReturnType<typeof giveEvmWallet>>;
  await visit(
    async (page) => {
      await button(page, "With Tester EVM").click();
      const text = await page.getByLabel("Text to sign").innerText();
      expect(text).toContain(wallet.address);
      expect(text).toContain("It signs no payment.");
      expect(await violations(page)).toEqual([]);
      await look(page, "text-to-sign");

      wallet.rejects = 1;
      await button(page, "Sign in").click();
      await said(page).getByText("You declined in Tester EVM.").waitFor();
      const sending = page.waitForRequest((one) => one.url().endsWith("/v1/sign-in"));
      await button(page, "Sign in").click();
      const signed = (await sending).postDataJSON();
      await heading(page, "Balance").waitFor();

      const again = await asked(page, "POST", "/v1/sign-in", signed);
      expect(again.status).toBe(401);
    },
    async (page) => {
      wallet = await giveEvmWallet(page);
    },
  );
});

it("says that a session is over, where and when it is, and goes on after signing in", () =>
  visit(async (page, { context }) => {
    const code = await openByCode(page);
    await button(page, "I have kept it").click();
    await heading(page, "API keys").waitFor();
    // Signed out in another tab of this browser; its cookie stays here as if it had expired.
    const [cookie] = await context.cookies();
    await page.request.delete(`${pool.web}/v1/session`);
    await context.addCookies([cookie!]);
    await button(page, "Create a key").click();
    await page.getByText("Your session has ended.").waitFor();
    await look(page, "ended");
    // The dead cookie is gone: it would be refused wherever it came.
    await expect.poll(() => context.cookies()).toEqual([]);
    await page.getByLabel("Recovery code").fill(code);
    await page.getByLabel("Recovery code").press("Enter");
    await heading(page, "Balance").waitFor();
    expect(await page.getByText("Your session has ended.").count()).toBe(0);
  }));

it("makes a key that is shown once, spends up to its limit, and is revoked", () =>
  visit(async (page) => {
    await button(page, "Try with test money").click();
    await heading(page, "API keys").waitFor();
    await page.getByLabel("Name").fill("my program");
    await page.getByLabel(/^Limit in/).fill("0.5000001");
    await button(page, "Create a key").click();
    await said(page).getByText("at most 6 digits").waitFor();
    await page.getByLabel(/^Limit in/).fill("0.5");
    await page.getByLabel("Ends").selectOption("7");
    await button(page, "Create a key").click();
    await heading(page, "Your new key, shown once").waitFor();
    const secret = await page.locator(".copy code").first().innerText();
    await look(page, "key");
    await button(page, "I have kept it").click();
    expect(await page.content()).not.toContain(secret);
    const row = page.getByRole("row", { name: /my program/ });
    expect(await row.innerText()).toContain("0.50");
    expect(await violations(page)).toEqual([]);

    const used = async (): Promise<number> => {
      const headers = { ...bearer(secret).headers, "content-type": "application/json" };
      const init = { method: "POST", headers, body: JSON.stringify(HELLO) };
      return (await fetch(`${pool.api}/v1/chat/completions`, init)).status;
    };
    expect(await used()).toBe(200);
    await button(page, "Revoke the key my program").click();
    await look(page, "revoke");
    await page.keyboard.press("Escape");
    await button(page, "Revoke the key my program").click();
    await button(page, "Revoke it").click();
    await row.getByText("revoked").waitFor();
    expect(await row.innerText()).toMatch(/0\.00\d+ \S+\s+0\.50/);
    expect(await used()).toBe(401);
  }));

it("takes an API key that was pasted, for this tab, and says which are none", () =>
  visit(async (page) => {
    const admin = { ...bearer(pool.adminKey).headers, "content-type": "application/json" };
    const made = await fetch(`${pool.api}/v1/keys`, {
      method: "POST",
      headers: admin,
      body: JSON.stringify({ name: "pasted", grant: "2500000" }),
    });
    const key = (await made.json()) as { secret: string; id: string };
    const paste = async (text: string): Promise<void> => {
      await page.getByLabel("API key").fill(text);
      await button(page, "Use it").click();
    };
    await paste("sk-prl-wrong");
    await said(page).getByText("opens no account here").waitFor();
    await paste(key.secret);
    await page.getByText("2.50").first().waitFor();
    expect((await asked(page, "POST", "/v1/chat/completions", HELLO, key.secret)).status).toBe(200);
    await page.reload();
    await button(page, "Forget the key").waitFor();
    await button(page, "Forget the key").click();
    await page.getByLabel("API key").waitFor();
    await fetch(`${pool.api}/v1/keys/${key.id}`, { method: "DELETE", headers: admin });
    await paste(key.secret);
    await said(page).getByText("It may be revoked").waitFor();
  }));

function bearer(key: string): { headers: Record<string, string> } {
  return { headers: { authorization: `Bearer ${key}` } };
}
