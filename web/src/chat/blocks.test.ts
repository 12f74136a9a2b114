import { describe, expect, it } from "vitest";
import { Blocks, blocksOf } from "./blocks";

const WHOLE = `# Title

A paragraph
of two lines.

- one

  still one
- two

1. first

2. second

\`\`\`python
def f():

    return 1
\`\`\`

| a | b |
|---|---|
| 1 | 2 |

\$\$
x

y
\$\$
Last.
`;

describe("blocks", () => {
  it("cut at blank lines, fences and nowhere inside of a list", () => {
    const blocks = blocksOf(WHOLE);
    expect(blocks.map((one) => one.kind)).toEqual([
      ...["text", "text", "text", "text", "code", "text", "text"],
    ]);
    expect(blocks[2]?.text).toContain("still one");
    expect(blocks[3]?.text).toContain("2. second");
    expect(blocks[4]).toEqual({
      kind: "code",
      language: "python",
      text: "def f():\n\n    return 1",
    });
  });

  it("are the same however the text came", () => {
    const blocks = new Blocks();
    for (let end = 1; end <= WHOLE.length; end += 1) blocks.update(WHOLE.slice(0, end));
    blocks.update(WHOLE, true);
    expect(blocks.finished).toEqual(blocksOf(WHOLE));
  });

  it("never change once they are finished", () => {
    const blocks = new Blocks();
    let before: unknown[] = [];
    for (let end = 1; end <= WHOLE.length; end += 1) {
      blocks.update(WHOLE.slice(0, end));
      expect(blocks.finished.slice(0, before.length)).toEqual(before);
      before = [...blocks.finished];
    }
  });

  it("lose no text", () => {
    const kept = blocksOf(WHOLE)
      .map((one) => one.text)
      .join("");
    for (const word of WHOLE.match(/[A-Za-z0-9]+/g) ?? []) {
      if (word !== "python") expect(kept).toContain(word);
    }
  });

  it("keep a fence that was never closed as code", () => {
    expect(blocksOf("a\n```js\nlet x\n")).toEqual([
      { kind: "text", text: "a\n" },
      { kind: "code", language: "js", text: "let x\n" },
    ]);
  });

  it("take a longer fence inside for text", () => {
    const [block] = blocksOf("````md\n```js\nx\n```\n````\n");
    expect(block?.text).toBe("```js\nx\n```");
  });

  it("begin anew with another text", () => {
    const blocks = new Blocks();
    blocks.update("one\n\ntwo\n\nthree");
    blocks.update("x");
    expect(blocks.finished).toEqual([]);
    expect(blocks.open?.text).toBe("x");
  });

  it("end a formula that nobody closed", () => {
    const text = `$$\n${"a line\n\n".repeat(2000)}`;
    expect(blocksOf(text).length).toBeGreaterThan(100);
  });
});
