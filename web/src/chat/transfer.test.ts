import { describe, expect, it } from "vitest";
import { entryOf, found } from "./store";
import { readBack, written } from "./transfer";
import { added, empty, unknownFacts, type Conversation, type Message } from "./tree";

function talk(): Conversation {
  const question: Message = {
    ...{ id: "q", parent: null, role: "user", text: "Why is the sky blue?" },
    ...{ files: [{ name: "a.txt", text: "x", note: null }], at_ms: 1, facts: null },
  };
  const node = { peer: "12D3A", name: "amber-heron" };
  const facts = {
    ...{ ...unknownFacts("done"), cost: "60", asset: "PRLX.local", migrations: 1 },
    ...{ nodes: [node], segments: [[node, { peer: "12D3B", name: null }], [node]] },
  };
  const answer: Message = {
    ...{ id: "a", parent: "q", role: "assistant", text: "Scattering.", files: [] },
    ...{ at_ms: 2, facts },
  };
  return added(added(empty("c", 0), question), answer);
}

const file = (change: (top: Record<string, unknown>) => void) => {
  const top = JSON.parse(written([talk()], 5)) as Record<string, unknown>;
  change(top);
  return JSON.stringify(top);
};

function first(top: Record<string, unknown>): Record<string, unknown> {
  return (top.conversations as Record<string, unknown>[])[0] as Record<string, unknown>;
}

function messages(top: Record<string, unknown>): Record<string, unknown>[] {
  return first(top).messages as Record<string, unknown>[];
}

describe("a file of conversations", () => {
  it("comes back as it was", () => {
    expect(readBack(written([talk()], 5))).toEqual([talk()]);
  });

  it.each([
    ["no JSON", "{", "no JSON"],
    ["another file", "{}", "no file of conversations"],
    ["a later version", file((top) => (top.version = 2)), "version"],
    ["an id that is a path", file((top) => (first(top).id = "../x")), "not an id"],
    ["a role that is none", file((top) => ((messages(top)[0] ?? {}).role = "system")), "role"],
    [
      "a parent that is not there",
      file((top) => ((messages(top)[0] ?? {}).parent = "z")),
      "not there",
    ],
    ["one id twice", file((top) => ((messages(top)[1] ?? {}).id = "q")), "one id"],
    ["a title without end", file((top) => (first(top).title = "x".repeat(1000))), "longer"],
    ["a text that is none", file((top) => ((messages(top)[0] ?? {}).text = { html: "" })), "text"],
    ["a time that is none", file((top) => (first(top).created_at_ms = "now")), "time"],
  ])("is refused with %s", (_what, text, why) => {
    expect(() => readBack(text)).toThrow(why);
  });

  it("brings no facts of another type", () => {
    const facts = { state: "streaming", cost: "1e9", nodes: [{ peer: 1 }], tokens_per_s: "9" };
    const [back] = readBack(file((top) => ((messages(top)[1] ?? {}).facts = facts)));
    expect(back?.messages[1]?.facts).toEqual(unknownFacts("done"));
  });
});

describe("the drawer", () => {
  it("finds by every word, the latest first", () => {
    const one = { ...entryOf(talk()), id: "1", changed_at_ms: 1 };
    const two = { ...entryOf(talk()), id: "2", changed_at_ms: 2 };
    expect(found([one, two], "SKY scattering").map((each) => each.id)).toEqual(["2", "1"]);
    expect(found([one, two], "sky green")).toEqual([]);
  });
});
