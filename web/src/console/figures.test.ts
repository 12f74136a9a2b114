import { describe, expect, it } from "vitest";
import { ago, bytes, figure, seconds } from "./figures";

describe("figures", () => {
  it("say unknown where nobody knows, and 0 where it is 0", () => {
    for (const write of [figure, bytes, seconds]) {
      expect(write(null)).toBe("unknown");
      expect(write(undefined)).toBe("unknown");
      expect(write(0)).toMatch(/^0/);
    }
  });

  it("are short", () => {
    expect(bytes(1536)).toBe("1.5 KiB");
    expect(bytes(240 * 1024 * 1024)).toBe("240 MiB");
    expect(seconds(0.0123)).toBe("12 ms");
    expect(seconds(61.25)).toBe("61.3 s");
    expect(ago(0, 59_000)).toBe("59 s");
    expect(ago(0, 7_200_000)).toBe("2 h");
    expect(ago(5_000, 0)).toBe("0 s");
  });
});
