// Machines of which two hold one model, for the tests of pipelines: started, awaited, struck.

import { readdirSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import type { Browser, Page, Route } from "playwright-core";
import { Chat, type Kept } from "./chatting";
import { Pool, until, type Running } from "./stack";

/** Two machines that give so much hold the packaged model, one never does. */
const HALF = ["--pipeline", "--memory-limit", "280MB"];
export const LAYERS = 30;
/** Base units for a token of a prompt or an answer: the packaged settings' rate. */
export const RATE_MICRO = 4;
export const ASKED = "Write a very long story about the sea.";

export interface Stage {
  peer: string;
  name: string;
  start: number;
  end: number;
  is_loaded: boolean;
  step_ms: number | null;
}

interface Told {
  data: { name: string; peer: string; state: string; standby: boolean }[];
  pipelines: { state: string; stages: Stage[] }[];
}

/** A paid pool that waits for two, and the machines that nothing has befallen, by name. */
export class Machines {
  readonly pool: Pool;
  readonly running = new Map<string, Running>();
  readonly #struck: Running[] = [];

  private constructor(pool: Pool) {
    this.pool = pool;
  }

  static async start(): Promise<Machines> {
    // Only what a test asks takes a slot, and nobody pays on a chain.
    const env = {
      PARHELION_NODES_PROBE: "false",
      PARHELION_X402_LOCAL_CHAINS: "never",
    };
    const made = new Machines(await Pool.startWith(env, "run", "-n", "2"));
    await made.#sell();
    return made;
  }

  /** From a private pool, which `run` starts, to one with rates. */
  async #sell(): Promise<void> {
    const { model } = await this.pool.get<{ model: string }>("/v1/setup");
    const authorization = `Bearer ${this.pool.adminKey}`;
    const response = await fetch(`${this.pool.api}/v1/setup`, {
      method: "PUT",
      headers: { authorization, "content-type": "application/json" },
      body: JSON.stringify({ model, nodes: 2, private: false }),
    });
    expect(response.status).toBe(200);
  }

  /** One more that holds a part of the model. */
  join(name: string): void {
    this.running.set(name, this.pool.join("--name", name, ...HALF));
  }

  /** One more that holds the whole model: its peer id. */
  async joinWhole(name: string): Promise<string> {
    this.running.set(name, this.pool.join("--name", name));
    return this.pool.ready(name);
  }

  /** Something befalls it: it counts no more. */
  take(name: string): Running {
    const node = this.running.get(name);
    if (!node) throw new Error(`there is no ${name}`);
    this.running.delete(name);
    this.#struck.push(node);
    return node;
  }

  /** Wait until all that live are here, and one pipeline of theirs serves: its stages. */
  async settled(): Promise<Stage[]> {
    let stages: Stage[] = [];
    const settling = until(async () => {
      const { data, pipelines } = await this.pool.get<Told>("/v1/nodes");
      const here = data.filter((one) => one.state === "ready").map((one) => one.name);
      const [ring] = pipelines;
      stages = ring?.stages ?? [];
      const isUp = ring?.state === "serving" && stages.every((one) => one.step_ms !== null);
      const isOurs = stages.every((one) => this.running.has(one.name));
      const areHere = [...this.running.keys()].every((name) => here.includes(name));
      return isUp && isOurs && areHere && here.length === this.running.size;
    });
    await settling.catch(async (late: Error) => {
      throw new Error(`${late.message}\n${JSON.stringify(await this.pool.get("/v1/nodes"))}`);
    });
    return stages;
  }

  async stop(): Promise<void> {
    for (const one of [...this.#struck, ...this.running.values()]) {
      one.child.kill("SIGCONT");
      await one.kill();
    }
    await this.pool.stop();
  }
}

/** The process of a machine that holds its layers. */
export function layersOf(node: Running): number {
  const read = (path: string): string => {
    try {
      return readFileSync(path, "utf-8");
    } catch {
      return ""; // It ended while we looked.
    }
  };
  const family = (pid: string): string[] => {
    const children = readdirSync(`/proc/${pid}/task`)
      .flatMap((task) => read(`/proc/${pid}/task/${task}/children`).split(" "))
      .filter((one) => one !== "");
    return [...children, ...children.flatMap(family)];
  };
  const found = family(`${node.child.pid}`).find((pid) =>
    read(`/proc/${pid}/cmdline`).includes("parhelion.engines.stage_host"),
  );
  if (!found) throw new Error("this machine holds no layers");
  return Number(found);
}

/** The chat, whose answers have the length that was asked for, whatever the model would say. */
export async function longWinded(
  browser: Browser,
  pool: Pool,
  tokens: number,
  kept: Kept,
): Promise<Chat> {
  const settings = {
    temperature: "0",
    frequency_penalty: "0.6",
    max_tokens: `${tokens}`,
  };
  const chat = await Chat.open(browser, pool, { ...settings, ...kept });
  await chat.page.route("**/v1/chat/completions", endless);
  return chat;
}

/** Keeps both end-of-text ids away: the page has no field for that, the API has. */
async function endless(route: Route): Promise<void> {
  const body = route.request().postData() ?? "";
  const postData = `${body.slice(0, -1)},"logit_bias":{"2":-100,"0":-100}}`;
  await route.continue({ postData });
}

/** Note when the text of the answer grows, by the page's own clock. */
export async function watchGrowth(page: Page): Promise<void> {
  await page.evaluate(() => {
    const grown: number[] = [];
    let length = 0;
    const look = (): void => {
      const text = document.querySelector("article[aria-busy=true] .text")?.textContent ?? "";
      if (text.length > length) grown.push(performance.now());
      length = text.length;
    };
    const all = { subtree: true, childList: true, characterData: true };
    new MutationObserver(look).observe(document.body, all);
    Object.assign(globalThis, { grown });
  });
}

/** The longest time that the answer's text stood still, in ms, and how often it grew. */
export function longestPause(page: Page): Promise<{ pause_ms: number; times: number }> {
  return page.evaluate(() => {
    const { grown } = globalThis as unknown as { grown: number[] };
    const pauses = grown.slice(1).map((at, before) => at - grown[before]!);
    return { pause_ms: Math.max(0, ...pauses), times: grown.length };
  });
}

/** Wait until so many characters of the answer stand there. */
export async function said(page: Page, characters: number): Promise<void> {
  await page.waitForFunction((least) => {
    const text = document.querySelector("article[aria-busy=true] .text")?.textContent ?? "";
    return text.length >= least;
  }, characters);
}

/** What this key may spend, in base units; nothing of it may be held. */
export async function available(pool: Pool, key: string): Promise<number> {
  const headers = { authorization: `Bearer ${key}` };
  type Balance = { available: string; held: string };
  let left: Balance = { available: "", held: "" };
  await until(async () => {
    left = await pool.get<Balance>("/v1/credits/balance", headers);
    return left.held === "0";
  });
  return Number(left.available);
}
