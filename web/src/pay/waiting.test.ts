import { describe, expect, it } from "vitest";
import { Waiting } from "./waiting.svelte";

describe("waiting for a wallet", () => {
  it("ends with what it gives, or with its refusal", async () => {
    const waiting = new Waiting();
    expect(await waiting.for("W", Promise.resolve(1))).toBe(1);
    await expect(waiting.for("W", Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(waiting.isOn).toBe(false);
    waiting.stop(); // Nobody waits: nothing happens.
  });

  it("ends when the person has waited enough, and drops what comes late", async () => {
    const waiting = new Waiting();
    let late = (): void => undefined;
    const asked = new Promise<void>((_, reject) => (late = () => reject(new Error("late"))));
    const waited = waiting.for("W", asked);
    expect(waiting.isOn).toBe(true);
    waiting.stop();
    await expect(waited).rejects.toThrow("You stopped waiting for W.");
    expect(waiting.isOn).toBe(false);
    late();
    await new Promise((resolve) => setTimeout(resolve));
  });
});
