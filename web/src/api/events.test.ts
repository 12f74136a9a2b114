import { describe, expect, it } from "vitest";
import { events } from "./events";

function stream(...pieces: string[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(encoder.encode(piece));
      controller.close();
    },
  });
}

async function all(...pieces: string[]): Promise<string[]> {
  const found: string[] = [];
  for await (const one of events(stream(...pieces))) found.push(one);
  return found;
}

describe("events", () => {
  it("reads events wherever the pieces are cut", async () => {
    const text = 'data: {"a": 1}\n\n: keep-alive\n\ndata:two\ndata: lines\n\ndata: [DONE]\n\n';
    const whole = ['{"a": 1}', "two\nlines", "[DONE]"];
    expect(await all(text)).toEqual(whole);
    for (let at = 1; at < text.length; at += 1) {
      expect(await all(text.slice(0, at), text.slice(at))).toEqual(whole);
    }
  });

  it("gives no event that was cut off", async () => {
    expect(await all('data: {"a": 1}\n\ndata: {"b"')).toEqual(['{"a": 1}']);
  });
});
