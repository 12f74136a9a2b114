// What a person chose for the next messages; kept in localStorage, read back with distrust. Pure.

const NAME = "parhelion.chat.settings";

/** Between the peer ids of a pipeline's stages. */
export const WAY = " ";

/** The peer ids of what was chosen: a node's one, or those of all stages of a pipeline. */
export function peersOf(way: string): string[] {
  return way.split(WAY);
}

export const SYSTEM_LIMIT_CHARS = 20_000;
/** About 5,000 tokens: more of it leaves small models no room for an answer. */

/** An empty text is "as the model's defaults have it" and is not sent. */
export interface Settings {
  model: string;
  /** A peer id, of a pipeline those of its stages (`peersOf`); "" is the pool's choice. */
  node: string;
  /** Whether a chosen node's answer may go on elsewhere when it is lost. */
  elsewhere: boolean;
  sort: "" | "throughput" | "latency" | "price";
  system: string;
  temperature: string;
  top_p: string;
  top_k: string;
  min_p: string;
  max_tokens: string;
  presence_penalty: string;
  frequency_penalty: string;
  seed: string;
  /** One a line. */
  stop: string;
  /** Whether single keys do something where nothing is typed (WCAG 2.1.4 lets them be turned off). */
  shortcuts: boolean;
}

export const DEFAULTS: Settings = {
  model: "",
  node: "",
  elsewhere: true,
  sort: "",
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  max_tokens: "",
  presence_penalty: "",
  frequency_penalty: "",
  seed: "",
  stop: "",
  shortcuts: true,
};

interface Range {
  name: keyof Settings & string;
  title: string;
  least: number;
  most: number;
  whole: boolean;
  help: string;
}

/** The ranges of docs/api.md. */
export const RANGES: readonly Range[] = [
  {
    name: "temperature",
    title: "Temperature",
    least: 0,
    most: 2,
    whole: false,
    help: "0 always takes the likeliest token",
  },
  {
    name: "top_p",
    title: "Top p",
    least: 0,
    most: 1,
    whole: false,
    help: "only tokens within this share of likelihood",
  },
  {
    name: "top_k",
    title: "Top k",
    least: 0,
    most: 1024,
    whole: true,
    help: "only so many of the likeliest; 0 is 64",
  },
  {
    name: "min_p",
    title: "Min p",
    least: 0,
    most: 1,
    whole: false,
    help: "none below this share of the likeliest",
  },
  {
    name: "max_tokens",
    title: "Longest answer",
    least: 1,
    most: 1_000_000,
    whole: true,
    help: "in tokens; also what a message can cost at most",
  },
  {
    name: "presence_penalty",
    title: "Presence penalty",
    least: -2,
    most: 2,
    whole: false,
    help: "against what was said once",
  },
  {
    name: "frequency_penalty",
    title: "Frequency penalty",
    least: -2,
    most: 2,
    whole: false,
    help: "against what is said often",
  },
];

const STOPS_LIMIT = 4;
const STOP_LIMIT_CHARS = 256;
const SEED_BITS = 63n;

/** What stands in the way of sending these settings, by field; empty when nothing does. */
export function faults(settings: Settings): Partial<Record<keyof Settings, string>> {
  const found: Partial<Record<keyof Settings, string>> = {};
  for (const { name, least, most, whole } of RANGES) {
    const text = String(settings[name]).trim();
    if (text === "") continue;
    const value = Number(text);
    const isIn = Number.isFinite(value) && value >= least && value <= most;
    if (!isIn || (whole && !Number.isInteger(value))) {
      found[name] = `${whole ? "a whole number" : "a number"} from ${least} to ${most}`;
    }
  }
  if (seedOf(settings.seed) === undefined) found.seed = "a whole number of at most 64 bits";
  const stops = stopsOf(settings.stop);
  if (stops.length > STOPS_LIMIT) found.stop = `at most ${STOPS_LIMIT} lines`;
  if (stops.some((one) => one.length > STOP_LIMIT_CHARS)) {
    found.stop = `at most ${STOP_LIMIT_CHARS} characters a line`;
  }
  if (settings.system.length > SYSTEM_LIMIT_CHARS) {
    found.system = `at most ${SYSTEM_LIMIT_CHARS.toLocaleString("en")} characters`;
  }
  return found;
}

/** The fields of a request, as JSON text: a seed of 64 bits is no JavaScript number. */
export function sampling(settings: Settings): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const { name } of RANGES) {
    const text = String(settings[name]).trim();
    if (text !== "") fields[name] = Number(text);
  }
  const stops = stopsOf(settings.stop);
  if (stops.length > 0) fields.stop = stops;
  const provider = providerOf(settings);
  if (provider) fields.provider = provider;
  return fields;
}

/** The body with its seed written out in full. */
export function bodyText(fields: Record<string, unknown>, seed: string): string {
  const text = JSON.stringify(fields);
  const wanted = seedOf(seed);
  return typeof wanted === "bigint" ? `${text.slice(0, -1)},"seed":${wanted}}` : text;
}

function providerOf(settings: Settings): Record<string, unknown> | null {
  if (settings.node !== "") {
    return { order: peersOf(settings.node), allow_fallbacks: settings.elsewhere };
  }
  return settings.sort === "" ? null : { sort: settings.sort };
}

/** Null for none, undefined for what is no seed. */
function seedOf(text: string): bigint | null | undefined {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  if (!/^-?\d{1,19}$/.test(trimmed)) return undefined;
  const value = BigInt(trimmed);
  return value >= -(2n ** SEED_BITS) && value < 2n ** SEED_BITS ? value : undefined;
}

function stopsOf(text: string): string[] {
  return text.split("\n").filter((one) => one !== "");
}

/** Settings from whatever was stored: of each field what has its type, else the default. */
export function settingsFrom(stored: unknown): Settings {
  const made: Record<string, unknown> = { ...DEFAULTS };
  if (typeof stored !== "object" || stored === null) return { ...DEFAULTS };
  for (const [name, value] of Object.entries(stored)) {
    if (Object.hasOwn(DEFAULTS, name) && typeof value === typeof made[name]) made[name] = value;
  }
  if (!["", "throughput", "latency", "price"].includes(String(made.sort))) made.sort = "";
  return made as unknown as Settings;
}

export function storedSettings(): Settings {
  try {
    return settingsFrom(JSON.parse(localStorage.getItem(NAME) ?? "{}"));
  } catch {
    // Unreadable, or nothing may be stored here: the defaults are as good as any.
    return { ...DEFAULTS };
  }
}

export function storeSettings(settings: Settings): void {
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // A browser that stores nothing forgets them with the tab; they hold until then.
  }
}
