import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["*.test.ts"],
    // One browser and one pool at a time: two cores serve an engine, a coordinator and Chromium.
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // A busy machine draws what a quiet one does at once; a second, as vitest has it, is too short.
    expect: { poll: { timeout: 20_000 } },
  },
});
