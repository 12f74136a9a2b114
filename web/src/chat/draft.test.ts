// @vitest-environment jsdom
import { beforeEach, describe, expect, it } from "vitest";
import { held, hold } from "./draft";

const FILE = { name: "a.txt", text: "a", note: null };

beforeEach(() => sessionStorage.clear());

describe("a draft", () => {
  it("is kept in this tab until it is forgotten", () => {
    expect(held()).toBeNull();
    hold({ text: "later", files: [FILE], conversation: "c" });
    expect(held()).toEqual({ text: "later", files: [FILE], conversation: "c" });
    hold(null);
    expect(held()).toBeNull();
  });

  it("that is none is nothing", () => {
    for (const kept of ["{", "3", '{"text":"a"}', '{"text":"a","conversation":"c","files":[3]}']) {
      sessionStorage.setItem("parhelion.chat.draft", kept);
      expect(held()).toBeNull();
    }
  });
});
