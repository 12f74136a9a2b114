// A pool as a person starts it: real processes, a real engine, local chains; killed like a machine.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");
export const COMMAND = join(ROOT, ".venv", "bin", "parhelion");
const PYTHON = join(ROOT, ".venv", "bin", "python");
const READY_MS = 60_000;
const STOP_MS = 20_000;
const LOOK_MS = 100;
/** A start takes some 3 s here; a loaded machine gets the factor. */

/** As `sitecustomize`: an engine's host begins when the gate's file is there, or ends alone. */
const BRAKE = `
import os, sys, time
parent = os.getppid()
while "parhelion.engines.host" in sys.orig_argv and not os.path.exists(os.environ["TEST_GATE"]):
    if os.getppid() != parent:
        os._exit(1)
    time.sleep(0.02)
`;

export interface Ports {
  api: number;
  web: number;
}

/** Two ports that nobody had a moment ago. */
export async function freePorts(): Promise<Ports> {
  const taken = [createServer(), createServer()];
  const found = await Promise.all(
    taken.map(
      (server) =>
        new Promise<number>((resolve) =>
          server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port)),
        ),
    ),
  );
  await Promise.all(taken.map((server) => new Promise((resolve) => server.close(resolve))));
  return { api: found[0]!, web: found[1]! };
}

interface PoolNode {
  name: string;
  peer: string;
  state: string;
}

/** The environment of a person who set nothing of ours: who calls these tests may have. */
function plain(): NodeJS.ProcessEnv {
  const set = Object.entries(process.env);
  return Object.fromEntries(
    set.filter(([name]) => name !== "PYTHONPATH" && !name.startsWith("PARHELION_")),
  );
}

/** A running command of ours, and what it printed. */
export class Running {
  readonly child: ChildProcess;
  output = "";

  constructor(args: string[], more: Record<string, string> = {}, command = COMMAND) {
    const env = { ...plain(), ...more };
    this.child = spawn(command, args, { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding("utf-8").on("data", (text: string) => (this.output += text));
    }
  }

  /** End it as Ctrl-C does; its exit status. */
  stop(): Promise<number | null> {
    return this.#end("SIGINT");
  }

  /** End it as a power cut does. */
  kill(): Promise<number | null> {
    return this.#end("SIGKILL");
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
    const ended = new Promise<number | null>((resolve) => this.child.once("exit", resolve));
    const late = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    this.child.kill(signal);
    const status = await ended;
    clearTimeout(late);
    return status;
  }
}

/** A pool with its pages: `parhelion up`, or `run` that waits for nodes. */
export class Pool {
  readonly folder = mkdtempSync(join(tmpdir(), "parhelion-browser-"));
  readonly nodes: Running[] = [];
  #process!: Running;
  #ports!: Ports;
  readonly #command: string[];
  readonly #env: Record<string, string>;

  private constructor(command: string[], env: Record<string, string>) {
    this.#command = command;
    this.#env = env;
  }

  /** Start it and wait until a prompt would be served (of `run`: until it answers). */
  static start(...command: string[]): Promise<Pool> {
    return Pool.startWith({}, ...command);
  }

  /** The same with settings of its own: {PARHELION_NODES_PROBE: "false"}. */
  static async startWith(env: Record<string, string>, ...command: string[]): Promise<Pool> {
    const pool = new Pool(command.length ? command : ["up"], env);
    pool.#ports = await freePorts();
    await pool.begin();
    return pool;
  }

  get data(): string {
    return join(this.folder, "data");
  }

  get api(): string {
    return `http://127.0.0.1:${this.#ports.api}`;
  }

  /** By name and not by address: passkeys belong to a name. */
  get web(): string {
    return `http://localhost:${this.#ports.web}`;
  }

  get adminKey(): string {
    return readFileSync(join(this.data, "admin.key"), "utf-8").trim();
  }

  get output(): string {
    return this.#process.output;
  }

  /** Start the command (again). */
  async begin(): Promise<void> {
    const { api, web } = this.#ports;
    const ports = ["--api-port", `${api}`, "--web-port", `${web}`];
    const args = [...this.#command, "--data", this.data, ...ports];
    this.#process = new Running(args, this.#env);
    const path = this.#command[0] === "run" ? "/ready" : "/health";
    await until(
      async () => (await fetch(this.api + path)).ok,
      () => this.#process,
    );
  }

  /** `kill -9` of the coordinator. */
  async crash(): Promise<void> {
    await this.#process.kill();
  }

  /** One more node: its own process and engine. */
  join(...more: string[]): Running {
    return this.#joined(["join"], COMMAND, more);
  }

  /** A node without a model that says again what it was asked: a test writes the answer. */
  parrot(name: string, tokens_per_s: number): Running {
    const pace = ["--parrot", "--name", name, "--tokens-per-s", `${tokens_per_s}`];
    return this.#joined(["-m", "parhelion.testing.echo_node"], PYTHON, pace);
  }

  /** A node like `join`'s whose engine begins to load when `release` is called, and not before. */
  joinBraked(...more: string[]): { node: Running; release: () => void } {
    const gate = join(this.folder, `gate-${this.nodes.length}`);
    writeFileSync(join(this.folder, "sitecustomize.py"), BRAKE);
    const env = { PYTHONPATH: this.folder, TEST_GATE: gate };
    return {
      node: this.#joined(["join"], COMMAND, more, env),
      release: () => writeFileSync(gate, ""),
    };
  }

  #joined(
    begin: string[],
    command: string,
    more: string[],
    env: Record<string, string> = {},
  ): Running {
    const address = JSON.parse(readFileSync(join(this.data, "api.json"), "utf-8")) as {
      api: string;
    };
    const data = join(this.folder, `node-${this.nodes.length}`);
    const at = address.api.replace(/^https?:\/\//, "");
    const node = new Running([...begin, "-s", at, "--data", data, ...more], env, command);
    this.nodes.push(node);
    return node;
  }

  /** The peer id of the node of this name, once it serves. */
  async ready(name: string): Promise<string> {
    let peer = "";
    await until(
      async () => {
        const { data } = await this.get<{ data: PoolNode[] }>("/v1/nodes");
        peer = data.find((one) => one.name === name && one.state === "ready")?.peer ?? "";
        return peer !== "";
      },
      () => this.nodes.at(-1) ?? this.#process,
    );
    return peer;
  }

  /** A new key with so much to spend, in millionths. */
  async key(grant: string, name = "test"): Promise<string> {
    const response = await fetch(`${this.api}/v1/keys`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.adminKey}`, "content-type": "application/json" },
      body: JSON.stringify({ name, grant }),
    });
    return ((await response.json()) as { secret: string }).secret;
  }

  /** What the API says. */
  async get<T>(path: string, headers: Record<string, string> = {}): Promise<T> {
    return (await (await fetch(this.api + path, { headers })).json()) as T;
  }

  async stop(): Promise<void> {
    for (const node of this.nodes) await node.stop();
    await this.#process.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Wait until this holds; the process's own words where it never does. */
export async function until(
  holds: () => Promise<boolean>,
  of?: () => Running,
  limit_ms = READY_MS,
): Promise<void> {
  const end = Date.now() + limit_ms;
  for (;;) {
    try {
      if (await holds()) return;
    } catch {
      // Not there yet: nobody listens, or it says no.
    }
    if (Date.now() > end) throw new Error(`not within ${limit_ms} ms:\n${of?.().output ?? ""}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
