// @vitest-environment jsdom
import { describe, expect, it } from "vitest";
import type { Network } from "../api/shapes";
import { findEvm } from "./evm";
import type { Connected, Offered, WalletError } from "./wallet";

const base = { name: "base", network: "eip155:8453", local: false, rpc: "https://node.example" };
const ADDRESS = `0x${"Ab".repeat(20)}`;

type Answers = Record<string, (params: unknown[]) => unknown>;

/** A wallet with these answers, and what it was asked. */
async function wallet(answers: Answers): Promise<{ wallet: Connected; asked: string[] }> {
  const asked: string[] = [];
  const request = async (call: { method: string; params: unknown[] }): Promise<unknown> => {
    asked.push(call.method);
    return answers[call.method]?.(call.params);
  };
  const detail = { info: { uuid: "1", name: "W", rdns: "test.w" }, provider: { request } };
  let found: Offered | undefined;
  const end = findEvm((one) => (found = one));
  window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  end();
  return { wallet: await found!.connect(), asked };
}

function no(code: number, more: object = {}): never {
  throw Object.assign(new Error("no"), { code, ...more });
}

/** What going to the network came to. */
async function going(network: object, refuse: () => never): Promise<WalletError> {
  const made = await wallet({
    eth_requestAccounts: () => [ADDRESS],
    eth_chainId: () => "0x1",
    wallet_switchEthereumChain: refuse,
  });
  return made.wallet.goTo(network as Network).catch((error: WalletError) => error) as never;
}

describe("an EVM wallet", () => {
  it("is told of a network that it does not know, however it says so", async () => {
    expect((await going(base, () => no(4902))).why).toBe("unknown_network");
    const wrapped = { data: { originalError: { code: 4902 } } };
    expect((await going(base, () => no(-32603, wrapped))).why).toBe("unknown_network");
  });

  it("is not told where nobody says how, or where its owner stays elsewhere", async () => {
    expect((await going({ ...base, rpc: null }, () => no(4902))).why).toBe("wrong_network");
    expect((await going(base, () => no(4001))).why).toBe("wrong_network");
  });

  it("without an account, or with what is none, is not connected", async () => {
    for (const accounts of [[], null, "0x", [42], ["0x12"]]) {
      await expect(wallet({ eth_requestAccounts: () => accounts })).rejects.toThrow("no account");
    }
  });

  it("that throws whatever it likes is told of in words", async () => {
    for (const thrown of [null, undefined, {}, "", "odd", new Error("")]) {
      const asking = wallet({
        eth_requestAccounts: () => {
          throw thrown;
        },
      });
      await expect(asking).rejects.toThrow(/^W did not sign: (it does not say why|odd)$/);
    }
  });
});
