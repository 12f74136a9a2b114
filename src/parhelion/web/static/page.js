// Draws the page from /health, /v1/models and /v1/nodes. What is not known is shown as unknown.
"use strict";

const EVERY_MS = 3000;
const UNKNOWN = "unknown";

const at = (id) => document.getElementById(id);
// textContent only: names come from strangers' machines.
const put = (id, text) => { at(id).textContent = text ?? UNKNOWN; };

async function fetched(path) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
    const body = await answer.json();
    return body.error ? null : body;
  } catch {
    return null;
  }
}

// "0.000004" a token is "4" a million, by moving the point: no floating point touches a price.
function perMillion(perToken) {
  const [whole, part = ""] = perToken.split(".");
  const digits = part.padEnd(6, "0");
  const moved = (whole + digits.slice(0, 6)).replace(/^0+(?=\d)/, "");
  const rest = digits.slice(6).replace(/0+$/, "");
  return rest ? `${moved}.${rest}` : moved;
}

function price(pricing, side) {
  if (!pricing) return UNKNOWN;
  const text = perMillion(pricing[side]);
  return text === "0" ? "free" : `${text} ${pricing.asset}`;
}

function drawHealth(health) {
  const state = at("state");
  const word = health ? health.status : "unreachable";
  state.textContent = word === "waiting" && health.nodes < health.need
    ? `waiting for ${health.need - health.nodes} of ${health.need} nodes` : word;
  state.className = `state ${word}`;
  at("local").hidden = !(health && health.local);
  put("node-count", health ? String(health.nodes) : null);
}

function drawModel(model) {
  put("model", model && model.id);
  put("context", model && `${model.context_length} tokens`);
  put("prompt-price", price(model && model.pricing, "prompt"));
  put("completion-price", price(model && model.pricing, "completion"));
  at("demonstration").hidden = !(model && model.demonstration);
  drawCurl(model);
}

function drawCurl(model) {
  const free = model && model.pricing
    && perMillion(model.pricing.prompt) === "0" && perMillion(model.pricing.completion) === "0";
  const key = free ? "" : "  -H \"Authorization: Bearer $PARHELION_KEY\" \\\n";
  const body = { messages: [{ role: "user", content: "Name three colours." }], max_tokens: 64 };
  put("curl", `curl ${location.origin}/v1/chat/completions \\\n${key}`
    + `  -H "Content-Type: application/json" \\\n  -d '${JSON.stringify(body)}'`);
  at("key-note").textContent = free
    ? "This model is free here: no key is needed."
    : "Put your key into PARHELION_KEY first. The pool's start printed one, if it is LOCAL.";
}

function drawNodes(nodes) {
  const rows = (nodes ?? []).map((node) => {
    const row = document.createElement("tr");
    const cells = [
      node.name,
      node.reason ? `${node.state}: ${node.reason}` : node.state,
      node.models.join(", ") || "none",
      `${node.slots_busy} of ${node.slots}`,
      node.tokens_per_s === null ? UNKNOWN : node.tokens_per_s.toFixed(1),
      String(node.served),
      String(node.failed),
      [node.device, node.backend, node.version].filter(Boolean).join(", ") || "nothing",
    ];
    for (const text of cells) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    row.title = node.peer;
    return row;
  });
  at("nodes").replaceChildren(...rows);
  at("no-nodes").hidden = !(nodes && nodes.length === 0);
}

async function draw() {
  const [health, models, nodes] = await Promise.all(
    ["/health", "/v1/models", "/v1/nodes"].map(fetched),
  );
  const known = models ? models.data : [];
  drawHealth(health);
  drawModel(known.find((model) => health && model.id === health.model) ?? known[0] ?? null);
  drawNodes(nodes ? nodes.data : null);
  put("seen", health ? `as of ${new Date().toLocaleTimeString()}` : "the server does not answer");
}

async function keepDrawing() {
  await draw();
  setTimeout(keepDrawing, document.hidden ? EVERY_MS * 5 : EVERY_MS);
}

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("curl").textContent);
    put("copied", "copied");
  } catch {
    put("copied", "select the text and copy it");
  }
});

keepDrawing();
