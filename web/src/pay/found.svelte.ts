// The wallets of this browser, as they make themselves known.

import { untrack } from "svelte";
import { findEvm } from "./evm";
import { findSolana } from "./solana";
import { canTest, testWallet } from "./testwallet";
import type { Offered } from "./wallet";

const WALLETS_LIMIT = 24;
/** A page that announces wallets without end must not fill the list. */

/** Wallets found so far, the test wallet last; `watch` in an $effect. */
export class Wallets {
  #found = $state<Offered[]>([]);
  list = $derived([
    ...this.#found.filter((one) => !one.isTest),
    ...this.#found.filter((one) => one.isTest),
  ]);

  /** Its name, and what it pays on where another of the same name does something else. */
  named(one: Offered): string {
    const isShared = this.list.some((other) => other !== one && other.name === one.name);
    return isShared ? `${one.name} (${one.family === "evm" ? "EVM" : "Solana"})` : one.name;
  }

  watch(withTest: boolean): () => void {
    const add = (wallet: Offered): void => {
      const known = this.#found.some((one) => one.id === wallet.id);
      if (!known && this.#found.length < WALLETS_LIMIT) this.#found.push(wallet);
    };
    // Wallets answer at once, while the effect that asked still runs: it must not watch the list.
    const ends = untrack(() => [findEvm(add), findSolana(add)]);
    if (withTest) void canTest().then((can) => can && add(testWallet()));
    return () => ends.forEach((end) => end());
  }
}
