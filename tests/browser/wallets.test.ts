// Wallets that are not as one wishes: they know no network, change, hang, lie, or cannot pay here.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, look, sideways, violations, Watched } from "./browser";
import { Pool } from "./stack";
import { giveEvmWallet, giveSolanaWallet } from "./wallets";

const EVM = "eip155:84532";
const SOLANA = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z";
const DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";

interface Network {
  network: string;
  name: string;
  rpc: string | null;
}

let pool: Pool;
let browser: Browser;

beforeAll(async () => {
  [pool, browser] = await Promise.all([Pool.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await pool?.stop();
});

/** A person with an account and these wallets; `sent` counts the payments that left the page. */
async function visit<W>(
  give: (page: Page) => Promise<W>,
  flow: (page: Page, wallet: W, sent: () => number) => Promise<void>,
  isSignedIn = true,
): Promise<void> {
  const watched = await Watched.open(browser);
  const { page } = watched;
  page.setDefaultTimeout(20_000);
  const wallet = await give(page);
  let count = 0;
  page.on("request", (one) => void (one.headers()["payment-signature"] && (count += 1)));
  await page.goto(`${pool.web}/account`);
  if (isSignedIn) {
    await button(page, "Create with a recovery code").click();
    await button(page, "I have kept it").click();
    await heading(page, "Add credits").waitFor();
  }
  await flow(page, wallet, () => count);
  expect(watched.faults).toEqual([]);
  await watched.close();
}

const button = (page: Page, name: string | RegExp) =>
  page.getByRole("button", { name, exact: typeof name === "string" });
const heading = (page: Page, name: string | RegExp) => page.getByRole("heading", { name });
const said = (page: Page, text: string) => page.getByRole("alert").getByText(text).waitFor();
const words = (page: Page) => page.getByRole("group", { name: "You are about to sign" });
const confirm = (page: Page) => words(page).getByRole("button", { name: "Pay $1", exact: true });
const available = (page: Page) => page.locator(".available .number").innerText();
const credited = (page: Page) => page.getByText("1.00 USDC.local credited.").waitFor();

/** Play money for this wallet. */
async function fund(network: string, address: string): Promise<void> {
  const response = await fetch(`${pool.api}/v1/local/faucet`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ network, address }),
  });
  expect(response.status).toBe(200);
}

/** The payment's words, of a wallet that has enough. */
async function ready(page: Page, label: string): Promise<void> {
  await button(page, label).click();
  await words(page).waitFor();
}

describe("a wallet that does not know the network", () => {
  it("is told of it once its owner has read what that is, and then pays", () =>
    visit(giveEvmWallet, async (page, wallet, sent) => {
      const { data } = await pool.get<{ data: Network[] }>("/v1/chain");
      const { rpc } = data.find((one) => one.network === EVM)!;
      [wallet.chain, wallet.knows, wallet.adds] = [1, false, false];
      await fund(EVM, wallet.address);
      // A wallet of one's own is warned of before it is asked for anything.
      await page.getByText("This pool is LOCAL.").first().waitFor();
      expect(wallet.asked).toEqual([]);
      await ready(page, "Pay $1 with Tester EVM");
      await confirm(page).click();
      const told = page.getByRole("group", { name: "Tester EVM does not know Base Sepolia" });
      await told.waitFor();
      const text = await told.innerText();
      for (const one of ["chain 84532", rpc!, "This chain is LOCAL", "Adding it pays nothing"]) {
        expect(text).toContain(one);
      }
      expect(wallet.asked).not.toContain("wallet_addEthereumChain");
      expect(await violations(page)).toEqual([]);
      expect(await sideways(page)).toBe(0);
      await look(page, "new-network");

      await button(page, "Add it and go on").click();
      await said(page, "You declined to add Base Sepolia (LOCAL) in Tester EVM.");
      await told.waitFor();
      expect(sent()).toBe(0);
      wallet.adds = true;
      await button(page, "Add it and go on").click();
      await credited(page);
      expect(wallet.added).toEqual({
        chainId: "0x14a34",
        chainName: "Base Sepolia (LOCAL)",
        nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
        rpcUrls: [rpc],
      });
      expect([wallet.chain, sent()]).toEqual([84532, 1]);
    }));

  it("is not told where nobody says how, and the page says what to do in the wallet", () =>
    visit(
      async (page) => {
        const wallet = await giveEvmWallet(page);
        // As the page is told on another machine than the pool's.
        await page.route("**/v1/chain", async (route) => {
          const body = (await (await route.fetch()).json()) as { data: Network[] };
          await route.fulfill({ json: { data: body.data.map((one) => ({ ...one, rpc: null })) } });
        });
        return wallet;
      },
      async (page, wallet) => {
        [wallet.chain, wallet.knows] = [1, false];
        await fund(EVM, wallet.address);
        await ready(page, "Pay $1 with Tester EVM");
        await confirm(page).click();
        await said(page, "does not know that network. Nothing was signed or paid.");
        await said(page, "add Base Sepolia (LOCAL), chain 84532 to Tester EVM");
        expect(wallet.asked).not.toContain("wallet_addEthereumChain");
        // Money is given on the pool's machine alone: nothing is offered that would be refused.
        expect(await button(page, /TEST MONEY/).count()).toBe(0);
      },
    ));
});

describe("wallets and networks", () => {
  /** A Wallet Standard wallet of these chains that signs nothing. */
  function giveStranger(page: Page, name: string, chains: string[], feature: string) {
    return page.addInitScript(
      ({ name, chains, feature }) => {
        const features = { [feature]: { version: "1.0.0" } };
        const wallet = { version: "1.0.0", name, icon: "data:,", chains, accounts: [], features };
        type Api = { register: (wallet: unknown) => void };
        window.addEventListener("wallet-standard:app-ready", (event) =>
          (event as CustomEvent<Api>).detail.register(wallet),
        );
      },
      { name, chains, feature },
    );
  }

  it("are matched: one for both kinds chooses, and who cannot pay here is told why", () =>
    visit(
      async (page) => {
        const evm = await giveEvmWallet(page, "Tester Both");
        const solana = await giveSolanaWallet(page, { name: "Tester Both" });
        await giveStranger(page, "Main", ["solana:mainnet"], "solana:signTransaction");
        const chains = ["solana:testnet"];
        await giveStranger(page, "Sender", chains, "solana:signAndSendTransaction");
        await giveStranger(page, "Other", ["sui:mainnet"], "sui:signTransaction");
        return { evm, solana };
      },
      async (page, { evm, solana }) => {
        for (const kind of ["EVM", "Solana"]) {
          await button(page, `Link Tester Both (${kind})`).waitFor();
        }
        const ways = page.getByRole("group", { name: "Wallets" }).getByRole("button");
        await expect
          .poll(() => ways.allInnerTexts())
          .toEqual([
            "Pay $1 with Tester Both on Base Sepolia (LOCAL)",
            "Pay $1 with Tester Both on Solana testnet (LOCAL)",
            expect.stringMatching(/^Pay \$1 with Test wallet\s+TEST MONEY$/),
          ]);
        const unable = page.getByRole("list", { name: "Wallets that cannot pay here" });
        const on = "this is paid on Solana testnet (LOCAL) or Base Sepolia (LOCAL).";
        expect((await unable.getByRole("listitem").allInnerTexts()).sort()).toEqual([
          `Main is of solana:mainnet alone; ${on}`,
          `Sender sends payments itself, and signs none; ${on}`,
        ]);
        expect(await violations(page)).toEqual([]);
        expect(await sideways(page)).toBe(0);
        await look(page, "wallets");

        await Promise.all([fund(EVM, evm.address), fund(SOLANA, solana.address)]);
        for (const name of ["Solana testnet", "Base Sepolia"]) {
          await ready(page, `Pay $1 with Tester Both on ${name} (LOCAL)`);
          expect(await words(page).innerText()).toContain(`It is paid on ${name} (LOCAL).`);
          await confirm(page).click();
          await credited(page);
          const network = name.startsWith("Solana") ? SOLANA : EVM;
          const link = page.getByRole("link", { name: "See the transaction" });
          expect(await link.getAttribute("href")).toContain(`/v1/chain/${network}/tx/`);
        }
        await expect.poll(() => available(page)).toBe("2.00");
      },
    ));

  /** The page is told these networks, made out of those that are there. */
  async function offer(page: Page, change: (all: Network[]) => Network[]): Promise<void> {
    await page.route("**/v1/chain", async (route) => {
      const body = (await (await route.fetch()).json()) as { data: Network[] };
      await route.fulfill({ json: { data: change(body.data) } });
    });
  }

  it("of another kind than the pool's are not offered, and it is not said that there are none", () =>
    visit(
      async (page) => {
        await giveEvmWallet(page);
        await offer(page, (all) =>
          all.filter((one) => one.network === SOLANA).map((one) => ({ ...one, rpc: null })),
        );
      },
      async (page) => {
        await page.getByText("No wallet that can pay here was found in this browser.").waitFor();
        await page.getByText("Tester EVM pays on EVM networks alone; this is paid on").waitFor();
        expect(await button(page, /^(Pay|Link)/).count()).toBe(0);
      },
    ));

  it("of one kind are offered each network that they know, by its name", () =>
    visit(
      async (page) => {
        await giveSolanaWallet(page, { chains: ["solana:testnet", "solana:devnet"] });
        const devnet = { network: DEVNET, name: "solana-devnet", rpc: null, local: false };
        await offer(page, (all) => [...all, { ...all[0]!, ...devnet }]);
        await giveStranger(page, "One", ["solana:testnet"], "solana:signTransaction");
      },
      async (page) => {
        for (const name of ["Solana testnet (LOCAL)", "Solana devnet"]) {
          await button(page, `Pay $1 with Tester Solana on ${name}`).waitFor();
        }
        // A wallet with one way needs no choice, and play money goes to a LOCAL network alone.
        await button(page, "Pay $1 with One").waitFor();
        await button(page, "Pay $1 with Test wallet TEST MONEY").waitFor();
      },
    ));
});

describe("a wallet that changes its account", () => {
  it("before it signs: the payment is made ready for the new one, and read anew", () =>
    visit(giveEvmWallet, async (page, wallet, sent) => {
      await fund(EVM, wallet.address);
      await ready(page, "Pay $1 with Tester EVM");
      const first = wallet.address;
      expect(await words(page).innerText()).toContain(first);
      const second = await wallet.become((address) => fund(EVM, address));
      await words(page).getByText("went to another account").waitFor();
      const text = await words(page).innerText();
      expect([text.includes(second), text.includes(first)]).toEqual([true, false]);
      expect(await violations(page)).toEqual([]);

      await wallet.disconnect();
      await said(page, "Tester EVM was disconnected. Nothing was signed or paid.");
      expect([await words(page).count(), sent()]).toEqual([0, 0]);
      await ready(page, "Pay $1 with Tester EVM");
      await confirm(page).click();
      await credited(page);
      expect(sent()).toBe(1);
    }));

  it("while it is asked to sign: what it signs for the old one is not used", () =>
    visit(giveEvmWallet, async (page, wallet, sent) => {
      await fund(EVM, wallet.address);
      await ready(page, "Pay $1 with Tester EVM");
      wallet.hangs = true;
      await confirm(page).click();
      await expect.poll(() => wallet.asked.at(-1)).toBe("eth_signTypedData_v4");
      wallet.hangs = false;
      await wallet.become((address) => fund(EVM, address));
      await said(page, `Tester EVM went to another account, ${wallet.address}.`);
      wallet.release();
      await ready(page, "Pay $1 with Tester EVM");
      await confirm(page).click();
      await credited(page);
      await expect.poll(() => available(page)).toBe("1.00");
      expect(sent()).toBe(1);
    }));

  it("of a Solana wallet is seen too", () =>
    visit(giveSolanaWallet, async (page, wallet, sent) => {
      await fund(SOLANA, wallet.address);
      await ready(page, "Pay $1 with Tester Solana");
      const second = await wallet.become((address) => fund(SOLANA, address));
      await words(page).getByText("went to another account").waitFor();
      expect(await words(page).innerText()).toContain(second);
      await confirm(page).click();
      await credited(page);
      expect(sent()).toBe(1);
    }));

  it("at the text that signs in: the text of the old one is signed no more", () =>
    visit(
      giveEvmWallet,
      async (page, wallet) => {
        await page.getByText("This pool is LOCAL.").waitFor();
        await button(page, "With Tester EVM").click();
        await heading(page, "Tester EVM will sign this text").waitFor();
        await wallet.become();
        await said(page, "Tester EVM went to another account");
        expect(await heading(page, "Tester EVM will sign this text").count()).toBe(0);
        await button(page, "With Tester EVM").click();
        const text = page.getByRole("region", { name: "Text to sign" });
        await text.getByText(wallet.address).waitFor();
        await button(page, "Sign in").click();
        await heading(page, "Balance").waitFor();
      },
      false,
    ));
});

describe("a wallet that never answers", () => {
  it("is left alone when the person has waited enough, and what it signs late is not used", () =>
    visit(giveEvmWallet, async (page, wallet, sent) => {
      await fund(EVM, wallet.address);
      wallet.hangs = true;
      await button(page, "Pay $1 with Tester EVM").click();
      await button(page, "Stop waiting").click();
      await said(page, "You stopped waiting for Tester EVM. Nothing was sent or paid.");
      wallet.hangs = false;
      await ready(page, "Pay $1 with Tester EVM");
      [wallet.chain, wallet.hangs] = [1, true];
      await confirm(page).click();
      await expect.poll(() => wallet.asked.at(-1)).toBe("wallet_switchEthereumChain");
      expect(await violations(page)).toEqual([]);
      await look(page, "waiting");
      await button(page, "Stop waiting").click();
      await said(page, "You stopped waiting for Tester EVM.");
      // It goes to the network after all: it is not asked for a signature that nobody waits for.
      wallet.hangs = false;
      wallet.release();
      await expect.poll(() => wallet.chain).toBe(84532);
      expect(wallet.asked).not.toContain("eth_signTypedData_v4");

      wallet.hangs = true;
      await confirm(page).click();
      await expect.poll(() => wallet.asked.at(-1)).toBe("eth_signTypedData_v4");
      await button(page, "Stop waiting").click();
      wallet.hangs = false;
      wallet.release();
      await confirm(page).click();
      await credited(page);
      await expect.poll(() => available(page)).toBe("1.00");
      expect(sent()).toBe(1);
      expect(wallet.asked.filter((one) => one === "eth_signTypedData_v4").length).toBe(2);
    }));

  it("is left alone where it signs in, too", () =>
    visit(
      giveSolanaWallet,
      async (page, wallet) => {
        await button(page, "With Tester Solana").click();
        await heading(page, "Tester Solana will sign this text").waitFor();
        wallet.hangs = true;
        await button(page, "Sign in").click();
        await button(page, "Stop waiting").click();
        await said(page, "You stopped waiting for Tester Solana.");
        wallet.hangs = false;
        wallet.release();
        await button(page, "Sign in").click();
        await heading(page, "Balance").waitFor();
      },
      false,
    ));
});

describe("a wallet that gives back garbage", () => {
  it("is told of in words, and nothing is sent", () =>
    visit(giveEvmWallet, async (page, wallet, sent) => {
      await fund(EVM, wallet.address);
      await ready(page, "Pay $1 with Tester EVM");
      for (const garbage of [null, 42, "", "hello", "0x12", `0x${"zz".repeat(65)}`, { a: 1 }]) {
        wallet.garbage = garbage;
        await confirm(page).click();
        await said(page, "Tester EVM gave back no signature. Nothing was sent or paid.");
        await words(page).waitFor();
      }
      expect(sent()).toBe(0);
      // Of the right form, and of nobody: that only who verifies can tell.
      wallet.garbage = `0x${"11".repeat(64)}1b`;
      await confirm(page).click();
      await page.getByRole("alert").waitFor();
      await button(page, "Pay $1 with Tester EVM").waitFor();
      await look(page, "garbage");
      expect([await page.getByRole("alert").innerText(), sent()]).toEqual([
        expect.stringMatching(/signature/),
        1,
      ]);
      wallet.garbage = undefined;
      await ready(page, "Pay $1 with Tester EVM");
      await confirm(page).click();
      await credited(page);
      await expect.poll(() => available(page)).toBe("1.00");
    }));

  it("or another payment than the one that was read: nothing is sent", () =>
    visit(giveSolanaWallet, async (page, wallet, sent) => {
      await fund(SOLANA, wallet.address);
      await ready(page, "Pay $1 with Tester Solana");
      wallet.changes = true;
      await confirm(page).click();
      await said(page, "gave back another payment than it was asked to sign.");
      expect(sent()).toBe(0);
      wallet.changes = false;
      await confirm(page).click();
      await credited(page);
    }));
});
