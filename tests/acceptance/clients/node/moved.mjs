// A stream that is moved under the unmodified openai package: `node moved.mjs BASE KEY JSON`.
// Prints what came, as JSON: the text, why it ended, and how often it was moved.
import OpenAI from "openai";

const [base, key, body] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;
const stream = await client.completions.create({
  model,
  ...JSON.parse(body),
  stream: true,
  stream_options: { include_usage: true },
});
let text = "";
let finish = null;
let usage = null;
for await (const chunk of stream) {
  for (const choice of chunk.choices) {
    text += choice.text;
    finish = choice.finish_reason ?? finish;
  }
  usage = chunk.usage ?? usage;
}
console.log(JSON.stringify({ text, finish, migrations: usage.migrations }));
