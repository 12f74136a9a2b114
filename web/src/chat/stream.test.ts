import { afterEach, describe, expect, it, vi } from "vitest";
import { ask, speed } from "./stream";

const USAGE = { prompt_tokens: 4, completion_tokens: 11, cost: "60", asset: "PRLX.local" };

function answer(...events: string[]): Response {
  return new Response(events.map((one) => `data: ${one}\n\n`).join(""), {
    headers: { "x-request-id": "req_x", "x-parhelion-nodes": "12D3A,12D3B" },
  });
}

function piece(content: string): string {
  return JSON.stringify({ id: "chatcmpl-x", model: "m", choices: [{ delta: { content } }] });
}

async function asked(response: Response | Error) {
  vi.stubGlobal("fetch", async () => {
    if (response instanceof Error) throw response;
    return response;
  });
  let text = "";
  let nodes: string[] = [];
  const begun = (_request: string | null, peers: string[]) => void (nodes = peers);
  let moved: string[] = [];
  const watcher = {
    add: (one: string) => (text += one),
    begun,
    moved: (peers: string[]) => void (moved = [...moved, `${peers.join(" ")} after ${text}`]),
  };
  let clock = 0;
  const outcome = await ask("{}", watcher, new AbortController().signal, () => (clock += 100));
  return { text, outcome, nodes, moved };
}

afterEach(() => vi.unstubAllGlobals());

describe("an answer", () => {
  it("is whole at [DONE], with its usage", async () => {
    const finish = JSON.stringify({ choices: [{ delta: {}, finish_reason: "stop" }] });
    const usage = JSON.stringify({ choices: [], usage: USAGE });
    const { text, outcome } = await asked(answer(piece("a"), piece("b"), finish, usage, "[DONE]"));
    expect(text).toBe("ab");
    expect(outcome).toMatchObject({ state: "done", finish: "stop", request: "req_x" });
    expect(outcome.usage?.cost).toBe("60");
    expect(outcome.first_token_ms).toBe(100);
    expect(outcome.tokens_per_s).toBeCloseTo(100);
  });

  it("names who makes it with its headers, and nobody where those do not", async () => {
    expect((await asked(answer(piece("a")))).nodes).toEqual(["12D3A", "12D3B"]);
    expect((await asked(new Response("data: [DONE]\n\n"))).nodes).toEqual([]);
    const body = `data: ${piece("a")}\n\n: keep-alive\n\n: x-parhelion-nodes 12D3B,12D3C\n\n`;
    const { text, moved } = await asked(new Response(`${body}data: ${piece("b")}\n\n`));
    expect([text, moved]).toEqual(["ab", ["12D3B 12D3C after a"]]);
  });

  it("that was cut says so, and what came is kept", async () => {
    const { text, outcome } = await asked(answer(piece("a")));
    expect(text).toBe("a");
    expect(outcome.state).toBe("cut");
    expect(outcome.hint).not.toBe("");
  });

  it("that failed in the middle has the server's words", async () => {
    const error = { message: "gone", type: "server_error", code: "node_lost", hint: "again" };
    const { text, outcome } = await asked(answer(piece("a"), JSON.stringify({ error })));
    expect(text).toBe("a");
    expect(outcome).toMatchObject({ state: "failed", error: "gone", hint: "again" });
  });

  it("that was refused has the code and when to come again", async () => {
    const error = { message: "full", type: "server_error", code: "overloaded", hint: "wait" };
    const { outcome } = await asked(
      new Response(JSON.stringify({ error }), { status: 503, headers: { "retry-after": "3" } }),
    );
    expect(outcome).toMatchObject({ state: "failed", code: "overloaded", retry_after_s: 3 });
  });

  it("of nobody is told as that", async () => {
    const { outcome } = await asked(new TypeError("failed to fetch"));
    expect(outcome).toMatchObject({ state: "failed", code: "offline" });
  });

  it("that is no JSON is one that was cut", async () => {
    expect((await asked(answer("{"))).outcome.state).toBe("cut");
  });
});

describe("speed", () => {
  it("is unknown where nobody counted, or two points make none", () => {
    expect(speed(null, 1000)).toBeNull();
    expect(speed({ completion_tokens: 2 } as never, 1000)).toBeNull();
    expect(speed({ completion_tokens: 20 } as never, 0)).toBeNull();
  });
});
