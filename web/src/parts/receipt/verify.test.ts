import { describe, expect, it } from "vitest";
import { bytesOf, canonical, keyOfPeer } from "./encoding";
import { receiptFrom, type Receipt } from "./form";
import { counts, price } from "./sums";
import { signers, verify } from "./verify";

// A real receipt of a demonstration answer and what opens it, as a coordinator of ours made them.
const RECEIPT =
  '{"already_billed":null,"artefact":"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53","asset_class":"local","cached_tokens":0,"completion_tokens":24,"coordinator":"12D3KooWFfZVvsMUA3zXpdZHfzZHRzDHfAajqe9GJYCYZ3KngS2P","cost_micro":"228","finish_reason":"length","head":"7a1b0c87a42ee65344131a07669c570c0b5e29e8a654db931a0fbcf7aa0fd901","id":"rcpt_06h093t6e34567h1q1bp6f4rjs","issued_at_ms":1795372854121,"max_tokens":24,"migrations":0,"model":"HuggingFaceTB/SmolLM2-135M-Instruct","opening_hash":"fd956ff55ef95a982d81d6b76346ba07521bbfa5a6e7e69844ad9aff2cce1f57","output_ids":24,"params":{"frequency_penalty":0,"logit_bias":[],"min_p":0,"presence_penalty":0,"temperature":0.7,"top_k":0,"top_p":1},"payment":null,"prompt_hmac":"29e42fd2c12be0ec2de490fea35a1c9d01decf31e95253032b5400ae9253ec1e","prompt_tokens":33,"rate":{"asset":"PRLX.local","completion_micro":4000000,"model":"HuggingFaceTB/SmolLM2-135M-Instruct","prompt_micro":4000000,"version":1},"route":"pool","seed":"6521727389311373095","segments":[{"artefact":"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53","ask":"559fb53abde99a0fb979d80a43d9503cf1acc2778635a711b004dc4c2c73f23b","attempt":1,"backend":"llama.cpp","ended_at_ms":1795372854119,"head":"7a1b0c87a42ee65344131a07669c570c0b5e29e8a654db931a0fbcf7aa0fd901","job":"job_06h093t6e34567h1q1bp6f4rjs","node":"12D3KooWGsMQkihzJ9yBWMGUWEr9nZopfaNhVArz2egZ5peDPufB","opening_hash":"fd956ff55ef95a982d81d6b76346ba07521bbfa5a6e7e69844ad9aff2cce1f57","reason":null,"signature":"Eb9UvC62UksbXbig-_HNCxu6yleNYo1QkCuJxjUMhWRs6qOpxyvxaDFGcPXrEBgRV7H5DKHioYR_08_-YV5iAQ","start":0,"started_at_ms":1795372852868,"to":24}],"signature":"r4MmpKj3HIFQ2xgTirrFNCFrvQrFXsezB1mhiSN0J-1Rsq5A9M2iFA7Q1D4Kgg5DwQLRrVfuX59lR2F78EehBw","silent_ids":0,"sold":null,"template":"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788","text_hmac":"f318551f47f4a2f66128c1fd24e87c228621126b31eb2d79e4826534414dbb95","v":1,"vocabulary":"fa4c9673d6a015ceb4e1fdeef4e5401df86926d35496e5c7864473b817c617d8"}';

const EVIDENCE = {
  receipt: "rcpt_06h093t6e34567h1q1bp6f4rjs",
  opening: "e8103e41323411240104829d062a06649d9d55479e8b04b0a2d759a59224e632",
  prompt_ids: [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
    19712, 8182, 2, 198, 1, 4093, 198, 36218, 15876, 26411, 2, 198, 1, 520, 9531, 198,
  ],
  output_ids: [
    59, 14177, 30, 1206, 2316, 253, 11743, 9433, 28, 2887, 47, 339, 5248, 1535, 288, 724, 351, 1789,
    284, 10560, 30, 1812, 506, 253,
  ],
  text: "Karen. You're a chatbot, correct? I'm here to help with language and grammar. What's a",
};

function states(checks: Awaited<ReturnType<typeof verify>>): Record<string, string> {
  return Object.fromEntries(checks.map((one) => [one.name, one.state]));
}

/** The receipt with a member changed, in canonical form still. */
function forged(change: (body: Receipt) => void): string {
  const body = receiptFrom(RECEIPT);
  change(body);
  return canonical(body);
}

describe("verify", () => {
  it("finds a real receipt good, to the last id", async () => {
    const checks = await verify(RECEIPT, { evidence: EVIDENCE, text: EVIDENCE.text });
    expect(states(checks)).toEqual({
      format: "ok",
      signature: "ok",
      segments: "ok",
      identity: "unchecked",
      counts: "ok",
      price: "ok",
      ids: "ok",
      text: "ok",
    });
  });

  it("names who signed each part, and finds the one whose signature was changed", async () => {
    const body = receiptFrom(RECEIPT);
    const [only] = await signers(body);
    expect(only).toMatchObject({ layers: null, ids: [0, 24], holds: true, unsigned: null });
    const [segment] = body.segments;
    const stage = { ...segment!, layers: [0, 30] as [number, number], busy_ms: 1 };
    // Neither is signed as a stage, and of the second it is said why.
    const stages = [stage, { ...stage, signature: null, reason: "the node was lost" }];
    const made = await signers({ ...body, segments: [{ ...segment!, stages }] });
    expect(made.map((one) => [one.holds, one.unsigned])).toEqual([
      [false, null],
      [null, "the node was lost"],
    ]);
    const other = { ...segment!, to: 23 };
    expect((await signers({ ...body, segments: [other] }))[0]!.holds).toBe(false);
  });

  it("says what it could not check", async () => {
    const checks = states(await verify(RECEIPT));
    expect(checks.ids).toBe("unchecked");
    expect(checks.text).toBe("unchecked");
  });

  it("knows whose it must be", async () => {
    const body = receiptFrom(RECEIPT);
    const own = await verify(RECEIPT, { coordinator: body.coordinator });
    expect(states(own).identity).toBe("ok");
    const node = body.segments[0]?.node as string;
    expect(states(await verify(RECEIPT, { coordinator: node })).identity).toBe("failed");
  });

  it.each([
    ["cost", (body: Receipt) => (body.cost_micro = "1"), "price"],
    ["count", (body: Receipt) => (body.completion_tokens = 23), "counts"],
    ["rate", (body: Receipt) => (body.rate.prompt_micro = 1), "price"],
    ["model", (body: Receipt) => (body.model = "better"), "price"],
    [
      "segment's end",
      (body: Receipt) => ((body.segments[0] as { to: number }).to = 23),
      "segments",
    ],
    [
      "segment's head",
      (body: Receipt) => ((body.segments[0] as { head: string }).head = "0".repeat(64)),
      "segments",
    ],
    ["prompt", (body: Receipt) => (body.prompt_hmac = "0".repeat(64)), "ids"],
    ["text", (body: Receipt) => (body.text_hmac = "0".repeat(64)), "text"],
    ["seed", (body: Receipt) => (body.seed = "1"), "ids"],
  ])("refuses another %s", async (_what, change, name) => {
    const found = states(await verify(forged(change), { evidence: EVIDENCE }));
    expect(found.signature).toBe("failed");
    expect(found[name]).toBe("failed");
  });

  it("sees that the text on the page is another one", async () => {
    const found = await verify(RECEIPT, { evidence: EVIDENCE, text: "something else" });
    expect(states(found).text).toBe("failed");
  });

  it("sees that the evidence is of other ids", async () => {
    const output_ids = [...EVIDENCE.output_ids];
    output_ids[3] = 7;
    const found = await verify(RECEIPT, { evidence: { ...EVIDENCE, output_ids } });
    expect(states(found).ids).toBe("failed");
  });

  it.each([
    ["nothing", ""],
    ["no JSON", "<html>"],
    ["an array", "[]"],
    ["another member", RECEIPT.replace("{", '{"a":1,')],
    ["a member twice", RECEIPT.replace("{", '{"v":1,')],
    ["other spaces", RECEIPT.replace(":", ": ")],
    ["a number as text", RECEIPT.replace('"v":1', '"v":"1"')],
    ["a negative zero", RECEIPT.replace('"min_p":0', '"min_p":-0')],
  ])("reads %s as no receipt", async (_what, bytes) => {
    const checks = await verify(bytes);
    expect(checks).toHaveLength(1);
    expect(checks[0]?.state).toBe("failed");
  });
});

describe("sums", () => {
  const body = () => receiptFrom(RECEIPT);

  it("round up once", () => {
    const one = { ...body(), prompt_tokens: 1, completion_tokens: 1 };
    one.rate = { ...one.rate, prompt_micro: 1, completion_micro: 1 };
    expect(price({ ...one, cost_micro: "1" }).fault).toBeNull();
    expect(price({ ...one, cost_micro: "2" }).fault).not.toBeNull();
  });

  it("are those of a tier where one was sold", () => {
    const sold = { tier: "basic", price_micro: "10000", max_tokens: 256 };
    const rate = { ...body().rate, prompt_micro: 0, completion_micro: 39062500, version: 0 };
    expect(price({ ...body(), sold, rate, cost_micro: "10000" }).fault).toBeNull();
    const cut = { ...body(), sold, rate, finish_reason: "node_lost" };
    expect(price({ ...cut, cost_micro: "938" }).fault).toBeNull();
    const left = { ...body(), sold, rate, finish_reason: "cancelled" };
    expect(price({ ...left, cost_micro: "1000" }).fault).toBeNull();
  });

  it("refuse counts that cannot be", () => {
    expect(counts({ ...body(), cached_tokens: 1_000 }).fault).not.toBeNull();
    expect(counts({ ...body(), migrations: 3 }).fault).not.toBeNull();
    expect(counts({ ...body(), already_billed: 25 }).fault).not.toBeNull();
  });
});

describe("encodings", () => {
  it("are RFC 8785's", () => {
    expect(canonical({ b: 1, a: [1e21, 0.1, "\u20ac\n"], "": null })).toBe(
      '{"":null,"a":[1e+21,0.1,"\u20ac\\n"],"b":1}',
    );
    expect(() => canonical("\ud800")).toThrow();
  });

  it("have one form each", () => {
    expect(keyOfPeer(receiptFrom(RECEIPT).coordinator)).toHaveLength(32);
    expect(keyOfPeer("1".repeat(52))).toBeNull();
    expect(bytesOf("AA")).toEqual(new Uint8Array([0]));
    expect(bytesOf("AB")).toBeNull();
    expect(bytesOf("AA==")).toBeNull();
  });
});
