import { describe, expect, it } from "vitest";
import { base58 } from "./base58";
import { base64, base64Json, bytesOf } from "./base64";
import { Refused } from "../api/http";
import { isUntold, leftText, life_ms } from "./payment";
import type { Prepared } from "./payment";
import { parts, withSignature } from "./transaction";

const PAYER = new Uint8Array(32).fill(7);
const FEES = new Uint8Array(32).fill(9);

function transaction(): Uint8Array<ArrayBuffer> {
  const keys = [FEES, PAYER, new Uint8Array(32)];
  const message = [0x80, 2, 0, 1, keys.length, ...keys.flatMap((key) => [...key]), 1, 2, 3];
  return new Uint8Array([2, ...new Uint8Array(128), ...message]);
}

describe("base58", () => {
  it("is what Solana writes", () => {
    expect(base58(new Uint8Array(32))).toBe("1".repeat(32));
    expect(base58(new TextEncoder().encode("Hello World!"))).toBe("2NEpo7TZRRrLZSi2U");
    expect(base58(new Uint8Array([0, 0, 40, 127, 180, 205]))).toBe("11233QC4");
    expect(base58(new Uint8Array())).toBe("");
  });
});

describe("the time to sign", () => {
  it("is said to the second, and that it is made ready again after it", () => {
    expect(leftText(84_001)).toBe("Ready for 1:25 more; after that it is made ready again.");
    expect(leftText(1)).toContain("0:01");
    expect(leftText(0)).toBe("Its time is over: it is made ready again before you sign it.");
  });
});

describe("base64", () => {
  it("carries bytes and text of any kind", () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    expect(bytesOf(base64(bytes))).toEqual(bytes);
    expect(new TextDecoder().decode(bytesOf(base64Json({ a: "é🌞" })))).toBe('{"a":"é🌞"}');
    expect(() => bytesOf("?")).toThrow();
  });
});

describe("a transaction", () => {
  it("says whose signatures it wants and what they sign", () => {
    const { signers, message } = parts(transaction());
    expect(signers).toEqual([base58(FEES), base58(PAYER)]);
    expect(message[0]).toBe(0x80);
    expect(message.length).toBe(transaction().length - 129);
  });

  it("takes a signature in its signer's place and changes nothing else", () => {
    const signed = withSignature(transaction(), base58(PAYER), new Uint8Array(64).fill(5));
    expect([...signed.slice(65, 129)]).toEqual(Array(64).fill(5));
    expect(signed.slice(129)).toEqual(transaction().slice(129));
    expect([...signed.slice(1, 65)]).toEqual(Array(64).fill(0));
  });

  it("is refused where it is cut, of another shape, or asks somebody else", () => {
    expect(() => parts(transaction().slice(0, 150))).toThrow("cut short");
    expect(() => parts(new Uint8Array([0]))).toThrow();
    expect(() => parts(new Uint8Array([200, 1]))).toThrow();
    const stranger = base58(new Uint8Array(32).fill(1));
    expect(() => withSignature(transaction(), stranger, new Uint8Array(64))).toThrow("this wallet");
    expect(() => withSignature(transaction(), base58(PAYER), new Uint8Array(63))).toThrow();
  });
});

describe("a payment", () => {
  const until = (expires_at_ms: number): Prepared => ({ expires_at_ms }) as Prepared;
  const refused = (status: number, code: string): Refused =>
    new Refused(status, { message: "no", type: "error", code, hint: "" });

  it("leaves time to read it whatever the clock of this machine says", () => {
    expect(life_ms(until(155_000), 100_000)).toBe(55_000);
    expect(life_ms(until(100_000), 900_000)).toBe(20_000);
    expect(life_ms(until(900_000), 100_000)).toBe(120_000);
  });

  it("is sent again, and not made anew, where nobody told what came of it", () => {
    expect(isUntold(refused(503, "payment_pending"))).toBe(true);
    expect(isUntold(refused(0, "offline"))).toBe(true);
    expect(isUntold(new TypeError("cut off"))).toBe(true);
    expect(isUntold(refused(402, "insufficient_credit"))).toBe(false);
    expect(isUntold(new Error("the wallet"))).toBe(false);
  });
});
