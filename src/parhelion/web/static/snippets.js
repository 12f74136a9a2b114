// A request to paste, in the language that was chosen.
import { isFree } from "./pool.js";

const QUESTION = "Name three colours.";
const MAX_TOKENS = 64;

function curl(model, origin, named) {
  const key = isFree(model) ? "" : "  -H \"Authorization: Bearer $PARHELION_KEY\" \\\n";
  const body = {
    ...(named ? { model: model.id } : {}),
    messages: [{ role: "user", content: QUESTION }],
    max_tokens: MAX_TOKENS,
  };
  return `curl ${origin}/v1/chat/completions \\\n${key}`
    + `  -H "Content-Type: application/json" \\\n  -d '${JSON.stringify(body)}'`;
}

function python(model, origin) {
  const key = isFree(model) ? "\"none\"" : "os.environ[\"PARHELION_KEY\"]";
  return `${isFree(model) ? "" : "import os\n"}from openai import OpenAI\n\n`
    + `client = OpenAI(base_url="${origin}/v1", api_key=${key})\n`
    + "answer = client.chat.completions.create(\n"
    + `    model=${JSON.stringify(model.id)},\n`
    + `    messages=[{"role": "user", "content": ${JSON.stringify(QUESTION)}}],\n`
    + `    max_tokens=${MAX_TOKENS},\n)\n`
    + "print(answer.choices[0].message.content)";
}

export function snippet(language, model, origin, named) {
  return language === "python" ? python(model, origin) : curl(model, origin, named);
}
