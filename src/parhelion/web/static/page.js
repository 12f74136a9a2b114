// Draws the page from what pool.js asks the API. What is not known is shown as unknown.
import { at, badge, element, put } from "./page-parts.js";
import { isFree, look, priceOf } from "./pool.js";
import { snippet } from "./snippets.js";

const EVERY_MS = 3000;
const STATES = {
  ready: "a prompt would be served now",
  waiting: "no prompt is served yet",
  draining: "it is stopping",
  unreachable: "the server does not answer",
};

let seen = { health: null, models: null, nodes: null };
let chosen = null;
let language = "curl";

function drawPool({ health, nodes }) {
  const word = health ? health.status : "unreachable";
  put("state", word);
  at("state").className = `pill ${word}`;
  put("pool", word);
  put("pool-note", STATES[word] ?? "");
  at("local").hidden = !(health && health.local);
  put("node-count", health ? String(health.nodes) : null);
  put("node-note", health && health.nodes < health.need ? `the pool waits for ${health.need}` : "");
  const ready = nodes && nodes.filter((node) => ["ready", "busy"].includes(node.state));
  const sum = (field) => ready.reduce((total, node) => total + node[field], 0);
  put("slots", ready && ready.length ? `${sum("slots_busy")} of ${sum("slots")}` : ready && "none");
  const measured = ready && ready.filter((node) => node.tokens_per_s !== null);
  put("speed", measured && measured.length
    ? measured.reduce((total, node) => total + node.tokens_per_s, 0).toFixed(1) : null);
}

function modelCard(model) {
  const top = element("div", { className: "top" });
  const how = model.available
    ? `served now by ${model.nodes} ${model.nodes === 1 ? "node" : "nodes"}` : "not served now";
  top.append(element("h3", { textContent: model.id }), badge(how, model.available ? "ready" : "none"));
  const facts = element("dl");
  for (const [name, value] of [
    ["1M prompt tokens", priceOf(model, "prompt")],
    ["1M completion tokens", priceOf(model, "completion")],
    ["Context", `${model.context_length} tokens`],
    ["For", model.purpose],
    ["File, sha256", `${model.digest.slice(0, 12)}…`],
  ]) {
    const fact = element("div");
    fact.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
    facts.append(fact);
  }
  const card = element("li");
  card.append(top, facts);
  if (model.demonstration) {
    card.append(element("p", {
      className: "quiet",
      textContent: "A small demonstration model: it shows that everything works, not what large models can do.",
    }));
  }
  return card;
}

function drawModels({ models }) {
  put("model-count", models && (models.length ? "" : "The catalogue is empty."));
  at("model-count").hidden = Boolean(models && models.length);
  at("models").replaceChildren(...(models ?? []).map((model) => {
    const card = modelCard(model);
    if (models.length > 1) {
      const ask = element("button", { type: "button", textContent: "Show how to ask it" });
      ask.setAttribute("aria-pressed", String(model.id === picked().id));
      ask.addEventListener("click", () => { chosen = model.id; draw(); });
      card.append(ask);
    }
    return card;
  }));
}

// Which model the example names: the chosen one, else the pool's own, else the first.
function picked() {
  const models = seen.models ?? [];
  const wanted = chosen ?? (seen.health && seen.health.model);
  return models.find((model) => model.id === wanted) ?? models[0] ?? null;
}

function drawSnippet() {
  const model = picked();
  const named = Boolean(model && seen.models.length > 1);
  put("snippet", model && snippet(language, model, location.origin, named));
  at("key-note").textContent = !model ? "" : isFree(model)
    ? "This model is free here: no key is needed, and any word will do where an SDK insists on one."
    : "Put your key into PARHELION_KEY first. A LOCAL pool prints one when it starts.";
  for (const name of ["curl", "python"]) {
    at(`as-${name}`).setAttribute("aria-pressed", String(name === language));
  }
}

function stateOf(node) {
  const box = element("span");
  box.append(badge(node.state, node.state));
  if (node.reason) box.append(element("span", { className: "quiet", textContent: node.reason }));
  return box;
}

function drawNodes({ nodes }) {
  const heads = [...document.querySelectorAll("thead th")].map((head) => head.textContent);
  at("nodes").replaceChildren(...(nodes ?? []).map((node) => {
    const row = element("tr", { title: node.peer });
    const cells = [
      node.name,
      stateOf(node),
      node.slots === null ? "unknown" : `${node.slots_busy} of ${node.slots}`,
      node.tokens_per_s === null ? "unknown" : node.tokens_per_s.toFixed(1),
      String(node.served),
      String(node.failed),
      node.models.join(", ") || "none",
      [node.device, node.backend, node.version].filter(Boolean).join(", ") || "nothing",
    ];
    cells.forEach((cell, index) => {
      const box = element("td");
      box.dataset.label = heads[index];
      box.append(cell);
      row.append(box);
    });
    return row;
  }));
  document.querySelector("table").hidden = !(nodes && nodes.length);
  at("no-nodes").hidden = Boolean(nodes && nodes.length);
  put("no-nodes", nodes
    && "No node is connected. The pool's start printed the command that joins one.");
}

function draw() {
  drawPool(seen);
  drawModels(seen);
  drawSnippet();
  drawNodes(seen);
}

async function keepDrawing() {
  seen = await look(EVERY_MS);
  draw();
  put("seen", seen.health ? `as of ${new Date().toLocaleTimeString()}` : "the server does not answer");
  setTimeout(keepDrawing, document.hidden ? EVERY_MS * 5 : EVERY_MS);
}

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("snippet").textContent);
    put("copy", "Copied");
  } catch {
    // Browsers keep the clipboard to secure pages; the text is selected, a key away.
    getSelection().selectAllChildren(at("snippet"));
    put("copy", "Selected");
  }
  setTimeout(() => put("copy", "Copy"), 2000);
});
for (const name of ["curl", "python"]) {
  at(`as-${name}`).addEventListener("click", () => { language = name; drawSnippet(); });
}

keepDrawing();
