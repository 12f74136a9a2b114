import { describe, expect, it } from "vitest";
import type { Network } from "../api/shapes";
import { givesMoney, isOf, spoken } from "./network";

const base = { name: "base-sepolia", network: "eip155:84532", local: true } as Network;

describe("a network", () => {
  it("is named as people say it, and says where its money is only play", () => {
    expect(spoken(base)).toBe("Base Sepolia (LOCAL)");
    expect(spoken({ ...base, name: "solana-testnet", local: false })).toBe("Solana testnet");
  });

  it("is of one family of wallets", () => {
    expect(isOf("eip155:84532", "evm")).toBe(true);
    expect(isOf("solana:4uhc", "evm")).toBe(false);
    expect(isOf("solana:4uhc", "solana")).toBe(true);
  });

  it("gives play money on its own machine alone", () => {
    expect(givesMoney(base)).toBe(false);
    expect(givesMoney({ ...base, rpc: "http://127.0.0.1:1" })).toBe(true);
    expect(givesMoney({ ...base, local: false, rpc: "http://127.0.0.1:1" })).toBe(false);
  });
});
