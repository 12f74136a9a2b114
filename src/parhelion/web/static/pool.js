// What the API says of the pool, and its prices in words; null is what it did not say.
async function fetched(path, withinMs) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(withinMs) });
    const body = await answer.json();
    return body.error ? null : body;
  } catch {
    return null;
  }
}

export async function look(withinMs) {
  const [health, models, nodes] = await Promise.all(
    ["/health", "/v1/models", "/v1/nodes"].map((path) => fetched(path, withinMs)),
  );
  return { health, models: models && models.data, nodes: nodes && nodes.data };
}

// "0.000004" a token is "4" a million, by moving the point: no floating point touches a price.
function perMillion(perToken) {
  const [whole, part = ""] = perToken.split(".");
  const digits = part.padEnd(6, "0");
  const moved = (whole + digits.slice(0, 6)).replace(/^0+(?=\d)/, "");
  const rest = digits.slice(6).replace(/0+$/, "");
  return rest ? `${moved}.${rest}` : moved;
}

export function isFree(model) {
  const { pricing } = model;
  return Boolean(pricing) && perMillion(pricing.prompt) === "0" && perMillion(pricing.completion) === "0";
}

export function priceOf(model, side) {
  if (!model.pricing) return "not sold";
  const text = perMillion(model.pricing[side]);
  return text === "0" ? "free" : `${text} ${model.pricing.asset}`;
}
