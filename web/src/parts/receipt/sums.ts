// Counts and price of a receipt, computed again; pure, in BigInt. As parhelion.proof.verify does.
import { AMOUNT_LIMIT, DECIMAL, type Receipt } from "./form";

const TOKENS_PER_RATE = 1_000_000n;
const PREFILL_PERCENT = 10n;
/** What the client of a tier's answer pays at least when it left once its prompt was begun. */

export interface Finding {
  fault: string | null;
  words: string;
}

const good = (words: string): Finding => ({ fault: null, words });
const bad = (words: string): Finding => ({ fault: words, words });

export function isFinished(body: Receipt): boolean {
  return body.finish_reason === "stop" || body.finish_reason === "length";
}

export function counts(body: Receipt): Finding {
  const all = [
    ...[body.prompt_tokens, body.completion_tokens, body.cached_tokens, body.silent_ids],
    ...[body.output_ids, body.max_tokens, body.migrations, body.issued_at_ms],
  ];
  if (all.some((one) => one < 0 || one >= AMOUNT_LIMIT)) {
    return bad("a count is negative or too large");
  }
  const { prompt_tokens, completion_tokens, silent_ids, output_ids, max_tokens } = body;
  if (completion_tokens + silent_ids !== output_ids) {
    return bad(
      `${completion_tokens} completion tokens and ${silent_ids} silent ids are not ${output_ids} output ids`,
    );
  }
  if (output_ids > max_tokens) {
    return bad(`${output_ids} output ids, at most ${max_tokens} asked`);
  }
  if (body.cached_tokens > prompt_tokens) return bad("more cached tokens than prompt tokens");
  if (!migrated(body)) {
    return bad(`${body.migrations} migrations, ${body.segments.length} segments`);
  }
  const billed = body.already_billed ?? 0;
  if (billed < 0 || billed > completion_tokens) {
    return bad("more tokens already billed than delivered");
  }
  return good(`${prompt_tokens} prompt + ${completion_tokens} completion tokens`);
}

function migrated(body: Receipt): boolean {
  const last = body.segments.at(-1);
  if (!last) return body.migrations === 0;
  const most = isFinished(body) ? Math.max(last.attempt, body.segments.length) - 1 : AMOUNT_LIMIT;
  return body.segments.length - 1 <= body.migrations && body.migrations <= most;
}

export function price(body: Receipt): Finding {
  const { rate } = body;
  const suffix = rate.asset.split(".").slice(1).join(".");
  if ((suffix || "main") !== body.asset_class) {
    return bad(`${rate.asset} is not money of class ${body.asset_class}`);
  }
  if (rate.model !== body.model) {
    return bad(`the rate is that of ${rate.model}, not of ${body.model}`);
  }
  if (rate.prompt_micro < 0 || rate.completion_micro < 0) return bad("a rate is negative");
  if (body.sold !== null) return sold(body, body.sold);
  // What an earlier, cut run of the same Idempotency-Key billed is not billed again.
  const prompt = body.already_billed === null ? body.prompt_tokens : 0;
  const completion = body.completion_tokens - (body.already_billed ?? 0);
  const exact =
    BigInt(Math.max(0, prompt)) * BigInt(rate.prompt_micro) +
    BigInt(Math.max(0, completion)) * BigInt(rate.completion_micro);
  const cost = ceilDivided(exact, TOKENS_PER_RATE);
  if (cost.toString() !== body.cost_micro) {
    return bad(`cost is ${body.cost_micro}, the rate makes it ${cost}`);
  }
  return good(
    `${prompt} × ${rate.prompt_micro} + ${completion} × ${rate.completion_micro}, for a million tokens each, is ${cost} base units of ${rate.asset} (rate version ${rate.version})`,
  );
}

function sold(body: Receipt, tier: NonNullable<Receipt["sold"]>): Finding {
  const isPriced = DECIMAL.test(tier.price_micro) && BigInt(tier.price_micro) > 0n;
  if (!isPriced || BigInt(tier.price_micro) > BigInt(AMOUNT_LIMIT) || tier.max_tokens < 1) {
    return bad("the tier that was sold has no price or no length");
  }
  if (body.max_tokens > tier.max_tokens) {
    return bad(`asked for more tokens than the tier ${tier.tier} sells`);
  }
  const whole = BigInt(tier.price_micro);
  const rate = ceilDivided(whole * TOKENS_PER_RATE, BigInt(tier.max_tokens));
  const told = body.rate;
  if (told.prompt_micro !== 0 || BigInt(told.completion_micro) !== rate || told.version !== 0) {
    return bad(`the rate is not that of the tier ${tier.tier}`);
  }
  const share = (tokens: number) => {
    const part = ceilDivided(rate * BigInt(Math.max(0, tokens)), TOKENS_PER_RATE);
    return part < whole ? part : whole;
  };
  let cost = isFinished(body) ? whole : share(body.completion_tokens);
  if (body.finish_reason === "cancelled") {
    const least = ceilDivided(whole * PREFILL_PERCENT, 100n);
    cost = cost > least ? cost : least;
  }
  cost -= share(body.already_billed ?? 0);
  if (cost.toString() !== body.cost_micro) {
    return bad(`cost is ${body.cost_micro}, the tier makes it ${cost}`);
  }
  return good(`${cost} base units of ${told.asset} for one ${tier.tier} answer`);
}

function ceilDivided(amount: bigint, by: bigint): bigint {
  return (amount + by - 1n) / by;
}
