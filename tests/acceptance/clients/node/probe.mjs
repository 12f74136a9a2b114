// The openai package for Node, unmodified, against a running pool: `node probe.mjs BASE KEY`.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [base, key] = process.argv.slice(2);
const options = { baseURL: base, apiKey: key, maxRetries: 0, timeout: 60_000 };
const client = new OpenAI(options);
const messages = [{ role: "user", content: "Why is the sky blue?" }];

const model = (await client.models.list()).data[0].id;
const ask = { model, messages, max_tokens: 12, temperature: 0 };

const whole = await client.chat.completions.create(ask);
const text = whole.choices[0].message.content;
assert.ok(text);
assert.equal(whole.usage.completion_tokens, 12);

let streamed = "";
let usage = null;
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, 12);

await assert.rejects(client.chat.completions.create({ ...ask, n: 2 }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ ...ask, model: "no/such" }), OpenAI.NotFoundError);
await assert.rejects(
  new OpenAI({ ...options, apiKey: "sk-prl-wrong" }).chat.completions.create(ask),
  OpenAI.AuthenticationError,
);

// A client that leaves in the middle; the next request is served.
const leaving = await client.chat.completions.create({ ...ask, max_tokens: 400, stream: true });
for await (const _ of leaving) break;
const again = await client.chat.completions.create({ ...ask, max_tokens: 2 });
assert.ok(again.usage.completion_tokens <= 2);
console.log("openai for node ok");
