import { describe, expect, it } from "vitest";
import { attached, FILE_LIMIT_BYTES, FILES_LIMIT, read } from "./files";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("files", () => {
  it("are taken as text, or refused with the reason", () => {
    expect(attached("a.txt", bytes("hello"))).toEqual({ name: "a.txt", text: "hello", note: null });
    expect(attached("a.png", new Uint8Array([0x89, 0x50, 0xff]))).toContain("not text");
    expect(attached("a.bin", bytes("a\0b"))).toContain("not a text file");
    expect(attached("a.txt", bytes(" \n"))).toContain("empty");
  });

  it("are cut at the limit, also inside of a character, and say so", () => {
    const cut = attached("a.txt", bytes("x" + "é".repeat(FILE_LIMIT_BYTES)));
    expect(typeof cut === "object" && cut.note).toContain("only the first 256 kB");
    expect(typeof cut === "object" && cut.text).not.toContain("\ufffd");
  });

  it("are few, and who brings more is told", async () => {
    const many = Array.from({ length: 12 }, (_, n) => new File(["x"], `${n}.txt`));
    const { added, told } = await read(many, 1);
    expect(added.length).toBe(FILES_LIMIT - 1);
    expect(told).toEqual(["At most 10 files go with one message."]);
  });
});
