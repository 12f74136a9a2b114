// One payment by steps: choose a wallet, read what is signed, sign, and hear what came of it.

import { Refused } from "../api/http";
import type { Network } from "../api/shapes";
import { holds, spent } from "./holding.svelte";
import { givesMoney, spoken } from "./network";
import { isUntold, life_ms, pay, prepare, signed } from "./payment";
import type { Buys, Paid, Prepared, Wait } from "./payment";
import { fund } from "./testwallet";
import { Waiting } from "./waiting.svelte";
import { moved, WalletError } from "./wallet";
import type { Connected, Offered } from "./wallet";

export interface Purchase<T> {
  buys: Buys;
  networks: Network[];
  onpaid: (paid: Paid<T>) => void;
  /** A payment that nobody had told of has landed; what it bought is not handed over again. */
  onlanded: () => void;
  /** Told of what was refused; true where somebody else shows it. */
  onrefused?: ((error: unknown) => boolean) | undefined;
}

/** What is signed, by whom, and on which network. */
interface Ready {
  one: Offered;
  wallet: Connected;
  network: Network;
  prepared: Prepared;
  /** By the clock that is never set (performance.now). */
  until_ms: number;
}

/** "add": the wallet does not know the network, and can be told of it. */
type At = "choose" | "working" | "confirm" | "add" | "untold";

/** What a person sees of it; `purchase` is read when it is needed, since props change. */
export class Paying<T> {
  at = $state<At>("choose");
  doing = $state("");
  error = $state<unknown>(null);
  /** Something that is no fault, told with the words. */
  notice = $state("");
  ready = $state.raw<Ready>();
  /** It was asked again, and had landed the first time. */
  hasLanded = $state(false);
  /** A wallet that has too little where a faucet gives play money. */
  poor = $state.raw<{ one: Offered; network: Network; address: string }>();
  readonly waiting = new Waiting();
  readonly #purchase: () => Purchase<T>;
  #signature = "";
  #unwatch: () => void = () => undefined;

  constructor(purchase: () => Purchase<T>) {
    this.#purchase = purchase;
  }

  /** The networks of these that a wallet can pay on. */
  networksOf(one: Offered): Network[] {
    return this.#purchase().networks.filter((each) => one.lacks(each) === null);
  }

  choose(one: Offered, network: Network): Promise<void> {
    return this.#step(`Asking ${one.name}`, "choose", async () => {
      this.#unwatch();
      const wallet = await this.waiting.for(one.name, one.connect());
      this.doing = "Getting the payment ready";
      this.#show(one, wallet, network, await this.#prepare(one, wallet, network));
    });
  }

  /** Have the faucet of a LOCAL network fill the wallet that has too little, then go on. */
  async fill(): Promise<void> {
    const { one, network, address } = this.poor!;
    let isFilled = false;
    await this.#step("Getting test money", "choose", async () => {
      await fund(network.network, address);
      isFilled = true;
      this.at = "choose";
    });
    if (isFilled) await this.choose(one, network);
  }

  confirm(): Promise<void> {
    const { wallet, network, prepared } = this.ready!;
    if (performance.now() >= this.ready!.until_ms) return this.#renew();
    return this.#step(`Waiting for ${wallet.name}`, "confirm", async () => {
      const wait: Wait = (asked) => this.waiting.for(wallet.name, asked);
      try {
        this.#signature = await signed(wallet, network, prepared, wait);
      } catch (caught) {
        if (whyOf(caught) !== "unknown_network") throw caught;
        this.at = "add";
        return;
      }
      await this.#send();
    });
  }

  /** Tell the wallet of a network that it does not know, then go on. */
  async add(): Promise<void> {
    const { wallet, network } = this.ready!;
    await this.#step(`Waiting for ${wallet.name}`, "add", async () => {
      await this.waiting.for(wallet.name, wallet.addNetwork(network));
      this.at = "confirm";
    });
    if (this.at === "confirm") await this.confirm();
  }

  /** The same payment once more: it is never taken twice. */
  again(): Promise<void> {
    return this.#step("Asking what became of it", "untold", async () => {
      try {
        await this.#send();
      } catch (caught) {
        if (!(caught instanceof Refused) || caught.code !== "payment_used") throw caught;
        this.hasLanded = true;
        this.#purchase().onlanded();
      }
    });
  }

  cancel(): void {
    this.#unwatch();
    [this.at, this.error, this.notice] = ["choose", null, ""];
  }

  /** The page goes away: nothing is asked of a wallet any more. */
  leave(): void {
    this.#unwatch();
    this.waiting.stop();
  }

  /** What was prepared is too old to land: it is made ready again, and read again. */
  #renew(): Promise<void> {
    const { one, wallet, network } = this.ready!;
    return this.#step("Getting the payment ready again", "choose", async () => {
      const prepared = await prepare(network.network, wallet.address, this.#purchase().buys);
      this.notice = "Too much time had passed, so the payment was made ready again. Read it anew.";
      this.#show(one, wallet, network, prepared);
    });
  }

  #show(one: Offered, wallet: Connected, network: Network, prepared: Prepared): void {
    const until_ms = performance.now() + life_ms(prepared);
    this.ready = { one, wallet, network, prepared, until_ms };
    this.at = "confirm";
    if (one.isTest) holds(prepared, network.network);
    this.#unwatch();
    this.#unwatch = wallet.watch((address) => void this.#moved(address));
  }

  /** Its owner chose another account, which what was prepared is not for; or none any more. */
  async #moved(address: string | null): Promise<void> {
    const { one, network } = this.ready!;
    this.waiting.stop(moved(one.name, address));
    if (this.at !== "confirm" && this.at !== "add") return;
    this.cancel();
    if (address === null) {
      this.error = moved(one.name, address);
      return;
    }
    await this.choose(one, network);
    if ((this.at as At) !== "confirm") return;
    this.notice = `${one.name} went to another account, so the payment was made ready for that one.`;
  }

  async #send(): Promise<void> {
    this.doing = `Settling on ${spoken(this.ready!.network)}`;
    const { one, network, prepared } = this.ready!;
    let paid: Paid<T>;
    try {
      paid = await pay<T>(prepared, this.#signature);
    } catch (caught) {
      this.at = isUntold(caught) ? "untold" : "choose";
      throw caught;
    }
    this.at = "choose";
    if (one.isTest) spent(prepared, network.network);
    this.#purchase().onpaid(paid);
  }

  /** The test wallet begins with nothing, and the faucet is there for it. */
  async #prepare(one: Offered, wallet: Connected, network: Network): Promise<Prepared> {
    const { buys } = this.#purchase();
    try {
      return await prepare(network.network, wallet.address, buys);
    } catch (caught) {
      const isPoor = caught instanceof Refused && caught.code === "insufficient_credit";
      if (!isPoor || !givesMoney(network)) throw caught;
      if (!one.isTest) {
        this.poor = { one, network, address: wallet.address };
        throw caught;
      }
      this.doing = "Getting test money";
      await fund(network.network, wallet.address);
      return prepare(network.network, wallet.address, buys);
    }
  }

  /** One at a time, so that a second click does nothing; where it fails the person is `back` at. */
  async #step(what: string, back: At, work: () => Promise<void>): Promise<void> {
    if (this.at === "working") return;
    [this.doing, this.error, this.notice, this.poor] = [what, null, "", undefined];
    [this.at, this.hasLanded] = ["working", false];
    try {
      await work();
    } catch (caught) {
      if (!this.#purchase().onrefused?.(caught)) this.error = caught;
      if ((this.at as At) === "working") this.at = whyOf(caught) === "moved" ? "choose" : back;
    }
    this.doing = "";
  }
}

function whyOf(error: unknown): string {
  return error instanceof WalletError ? error.why : "";
}
