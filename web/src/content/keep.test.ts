// @vitest-environment jsdom
import { beforeEach, describe, expect, it } from "vitest";
import { path } from "../chat/tree";
import type { Outcome } from "../chat/stream";
import { Keeping } from "./keep";
import { draftOf, keepDraft, keepLast, keepUntil, last, untilOf } from "./remember";

const ended = {
  ...{ state: "done", finish: "stop", error: null, hint: null, code: null, retry_after_s: null },
  ...{ request: "req-1", completion: "cmpl-1", model: "lab/tiny" },
  usage: {
    ...{ prompt_tokens: 3, completion_tokens: 2, cost: "250000", asset: "USDC.local" },
    ...{ receipt: "rcp-1", nodes: ["peer-a"], segments: [["peer-a"]], route: "pool" },
    migrations: 0,
  },
  ...{ first_token_ms: 5, tokens_per_s: null },
} as unknown as Outcome;

beforeEach(() => sessionStorage.clear());

describe("a bought answer", () => {
  it("is a conversation with its model, nodes, cost and receipt", () => {
    const keeping = new Keeping("Name a colour.\nAny.", 1);
    const whole = keeping.with("Red.", "req-1", ended, 2);
    expect([whole.id, whole.title]).toEqual([keeping.id, "Name a colour."]);
    const [question, answer] = path(whole);
    expect([question!.text, answer!.text]).toEqual(["Name a colour.\nAny.", "Red."]);
    expect(answer!.id).toBe(keeping.answer);
    expect(answer!.facts).toMatchObject({
      ...{ state: "done", model: "lab/tiny", cost: "250000", asset: "USDC.local" },
      ...{ receipt: "rcp-1", nodes: [{ peer: "peer-a", name: null }] },
    });
  });

  it("is kept while it comes, with the name that its receipt is found by", () => {
    const coming = path(new Keeping("Hi", 1).with("Re", "req-1", null, 2)).at(-1)!;
    expect([coming.text, coming.facts!.state, coming.facts!.request]).toEqual([
      ...["Re", "streaming", "req-1"],
    ]);
  });

  it("is said not to be kept where the browser keeps nothing", async () => {
    // No indexedDB here, as in some private windows.
    expect(await new Keeping("Hi", 1).save("Red.", null, ended)).toBe(false);
  });
});

describe("a reload", () => {
  it("finds the draft and the hour's end of its own tier", () => {
    keepDraft("basic", "Half a th");
    keepUntil("basic", 100);
    expect([draftOf("basic"), draftOf("premium")]).toEqual(["Half a th", ""]);
    expect([untilOf("basic", 99), untilOf("premium", 99)]).toEqual([100, null]);
    expect(untilOf("basic", 100)).toBeNull(); // Over.
    keepDraft("basic", "");
    keepUntil("basic", null);
    expect([draftOf("basic"), untilOf("basic", 1)]).toEqual(["", null]);
  });

  it("finds the last answer, and takes nothing else for one", () => {
    expect(last()).toBeNull();
    keepLast({ id: "ab".repeat(16), title: "Hi" });
    expect(last()).toEqual({ id: "ab".repeat(16), title: "Hi" });
    for (const odd of ["{", "1", '{"id":"/evil","title":"x"}', `{"id":"${"ab".repeat(16)}"}`]) {
      sessionStorage.setItem("parhelion.content.last", odd);
      expect(last()).toBeNull();
    }
  });
});
