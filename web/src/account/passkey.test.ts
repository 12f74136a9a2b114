import { describe, expect, it } from "vitest";
import { whyNot } from "./passkey";

describe("why no passkey", () => {
  it("tells who is at an address of this machine where to go instead", () => {
    const told = whyNot(new URL("http://127.0.0.1:3002/account"));
    expect(told?.instead).toBe("http://localhost:3002/account");
    expect(whyNot(new URL("http://[::1]:3002/account"))?.instead).toContain("//localhost:3002/");
  });

  it("knows no name for the address of another machine", () => {
    expect(whyNot(new URL("http://192.168.1.5:3002/"))).toMatchObject({ instead: null });
  });
});
