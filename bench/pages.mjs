// One real Chromium at the chat page: what it loads first, when it can be used, and what drawing a
// long answer costs. Run by bench/rows_pages.py from the folder that has playwright-core.

import { gzipSync } from "node:zlib";
import { chromium } from "playwright-core";

const { web, key, node, text, max_tokens, rounds } = JSON.parse(process.env.PAGES);
const ANSWER_MS = 120_000;
/** Twenty seconds at the usual pace. */
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];

/** In the page: note when a message can be written, and when the model is known to be ready. */
function watch({ key, settings }) {
  sessionStorage.setItem("parhelion.key", key);
  localStorage.setItem("parhelion.chat.settings", settings);
  globalThis.seen = {};
  const look = () => {
    const { seen } = globalThis;
    if (document.querySelector("textarea[aria-label=Message]")) seen.writable ??= performance.now();
    if (document.querySelector(".pick .dot.ready")) seen.ready ??= performance.now();
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
}

async function opened(browser) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const page = await context.newPage();
  page.setDefaultTimeout(ANSWER_MS);
  const settings = JSON.stringify({ node, elsewhere: false, max_tokens: `${max_tokens}` });
  await page.addInitScript(watch, { key, settings });
  const scripts = [];
  page.on("response", (one) => {
    if (one.request().resourceType() === "script") scripts.push(one);
  });
  await page.goto(web, { waitUntil: "networkidle" });
  await page.locator(".pick .dot.ready").waitFor();
  return { context, page, scripts };
}

/** Gzip of each file that the page loaded before anybody did anything. */
async function sizes(scripts) {
  const files = await Promise.all(
    scripts.map(async (one) => ({
      name: new URL(one.url()).pathname.split("/").at(-1),
      gzip: gzipSync(await one.body(), { level: 9 }).length,
    })),
  );
  return files;
}

/** CPU seconds by kind, as the browser counts them for this page. */
async function costs(cdp) {
  const { metrics } = await cdp.send("Performance.getMetrics");
  return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
}

async function answer(page, context) {
  const cdp = await context.newCDPSession(page);
  await cdp.send("Performance.enable");
  await page.getByRole("textbox", { name: "Message", exact: true }).fill(text);
  await page.locator("#cost", { hasText: "at most" }).waitFor();
  const before = await costs(cdp);
  const begun_ms = Date.now();
  await page.keyboard.press("Enter");
  await page.locator("article[aria-label=Answer] footer").waitFor();
  const took_s = (Date.now() - begun_ms) / 1000;
  const after = await costs(cdp);
  const fault = page.locator("article .note.wrong");
  if (await fault.count()) throw new Error(await fault.innerText());
  const tokens = await page
    .locator("dl > div", { has: page.locator("dt", { hasText: "tokens" }) })
    .locator("dd")
    .innerText();
  const spent = (name) => after[name] - before[name];
  return {
    took_s,
    tokens: Number(tokens.split("+")[1].replace(/\D/g, "")),
    script_s: spent("ScriptDuration"),
    layout_s: spent("LayoutDuration"),
    style_s: spent("RecalcStyleDuration"),
    task_s: spent("TaskDuration"),
  };
}

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
const found = { writable_ms: [], ready_ms: [], files: [], version: browser.version(), answers: [] };
for (let round = 0; round < rounds; round += 1) {
  const { context, page, scripts } = await opened(browser);
  const seen = await page.evaluate(() => globalThis.seen);
  found.writable_ms.push(seen.writable);
  found.ready_ms.push(seen.ready);
  found.files = await sizes(scripts);
  if (round === rounds - 1) found.answers.push(await answer(page, context));
  await context.close();
}
await browser.close();
process.stdout.write(JSON.stringify(found));
