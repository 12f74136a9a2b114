// Waiting for a wallet: its owner may never answer there, so who waits here can stop.

import { WalletError } from "./wallet";

export class Waiting {
  /** Whether a wallet is waited for. */
  isOn = $state(false);
  #name = "";
  #end: ((why: WalletError) => void) | null = null;

  /** What a wallet gives; once the waiting was stopped, what it gives is dropped. */
  async for<T>(name: string, asked: Promise<T>): Promise<T> {
    const stopped = new Promise<never>((_, reject) => (this.#end = reject));
    [this.isOn, this.#name] = [true, name];
    try {
      return await Promise.race([asked, stopped]);
    } finally {
      [this.isOn, this.#end] = [false, null];
    }
  }

  /** End it for this reason, or because the person does not want to wait any longer. */
  stop(why: WalletError = tired(this.#name)): void {
    this.#end?.(why);
  }
}

function tired(name: string): WalletError {
  return new WalletError(
    "rejected",
    `You stopped waiting for ${name}. Nothing was sent or paid.`,
    "if it still asks, decline there: what it signs now is not used",
  );
}
