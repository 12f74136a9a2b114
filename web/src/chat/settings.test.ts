import { describe, expect, it } from "vitest";
import { bodyText, DEFAULTS, faults, sampling, settingsFrom } from "./settings";

describe("settings", () => {
  it("send nothing that was not chosen", () => {
    expect(sampling(DEFAULTS)).toEqual({});
    expect(faults(DEFAULTS)).toEqual({});
  });

  it("send what was chosen, in the API's words", () => {
    const chosen = {
      ...DEFAULTS,
      temperature: "0",
      top_p: "0.9",
      max_tokens: "64",
      stop: "a\n\nb",
      node: "12D3 12D4",
      elsewhere: false,
    };
    expect(sampling(chosen)).toEqual({
      temperature: 0,
      top_p: 0.9,
      max_tokens: 64,
      stop: ["a", "b"],
      provider: { order: ["12D3", "12D4"], allow_fallbacks: false },
    });
    expect(sampling({ ...DEFAULTS, sort: "latency" })).toEqual({ provider: { sort: "latency" } });
  });

  it("write a seed of 64 bits to the last digit", () => {
    expect(bodyText({ a: 1 }, "9223372036854775807")).toBe('{"a":1,"seed":9223372036854775807}');
    expect(bodyText({ a: 1 }, "")).toBe('{"a":1}');
  });

  it("are refused outside of the API's ranges", () => {
    const wrong = {
      ...DEFAULTS,
      temperature: "2.1",
      top_k: "1.5",
      max_tokens: "0",
      seed: "9223372036854775808",
      stop: "1\n2\n3\n4\n5",
    };
    expect(Object.keys(faults(wrong)).sort()).toEqual(
      ["max_tokens", "seed", "stop", "temperature", "top_k"].sort(),
    );
    expect(faults({ ...DEFAULTS, temperature: "warm" }).temperature).toBeDefined();
  });

  it("are read back with distrust", () => {
    const stored = { temperature: 5, top_p: "0.5", sort: "evil", __proto__: { x: 1 }, other: "x" };
    expect(settingsFrom(stored)).toEqual({ ...DEFAULTS, top_p: "0.5" });
    expect(settingsFrom(null)).toEqual(DEFAULTS);
    expect(settingsFrom("x")).toEqual(DEFAULTS);
  });
});
