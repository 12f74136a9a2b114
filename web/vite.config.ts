import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// Where `parhelion.web.pages` looks for what it serves.
const BUILT = "../src/parhelion/web/built";

export default defineConfig({
  plugins: [svelte()],
  publicDir: "public",
  build: {
    outDir: BUILT,
    emptyOutDir: true,
    target: "es2022",
    // The policy lets nothing inline in, so no asset may become a data: address.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: {
        chat: "index.html",
        account: "account.html",
        console: "console.html",
        content: "content.html",
        setup: "setup.html",
      },
    },
  },
  test: { include: ["src/**/*.test.ts"] },
});
