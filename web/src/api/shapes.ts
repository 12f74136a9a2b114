// The bodies that the pages read, as docs/api.md has them. Amounts are strings of base units.

export type Amount = string;

export interface Health {
  status: "waiting" | "ready" | "draining";
  model: string;
  nodes: number;
  need: number;
  local: boolean;
}

export interface Rate {
  asset: string;
  version: number;
  /** Base units for a million tokens. */
  prompt: Amount;
  completion: Amount;
}

export interface Model {
  id: string;
  context_length: number;
  default_max_tokens: number;
  architecture: string;
  purpose: string;
  demonstration: boolean;
  size_bytes: number;
  rates: Rate[];
  nodes: number;
  available: boolean;
}

export interface ModelState {
  model: string;
  state: string;
  reason: string | null;
}

export interface Stage {
  start: number;
  end: number;
  peer: string;
  name: string;
  is_loaded: boolean;
  resident_bytes: number | null;
  step_ms: number | null;
  next_link: {
    peer: string;
    path: string;
    rtt_ms: number | null;
    mbit_s: number | null;
    sent_bytes: number;
    received_bytes: number;
  } | null;
}

export interface Pipeline {
  id: string;
  model: string;
  epoch: number;
  state: string;
  since_ms: number;
  reason: string | null;
  slots: number | null;
  slots_busy: number | null;
  tokens_per_s: number | null;
  first_id_s: number | null;
  served: number;
  failed: number;
  bottleneck: string | null;
  wire: string | null;
  stages: Stage[];
}

export interface PoolNode {
  name: string;
  peer: string;
  operator: string;
  state: string;
  reason: string | null;
  models: string[];
  model_states: ModelState[];
  slots: number | null;
  slots_busy: number | null;
  utilisation: number | null;
  tokens_per_s: number | null;
  first_id_s: number | null;
  success_rate: number | null;
  samples: number | null;
  version: string | null;
  device: string | null;
  backend: string | null;
  reported: string[];
  connected_at_ms: number | null;
  left_at_ms: number | null;
  served: number;
  failed: number;
  fallback: boolean;
  memory_bytes: number | null;
  standby: boolean;
  /** How far one that is joining says it is; null where nothing counts it. */
  phase: "checking" | "loading" | "proving" | null;
  percent: number | null;
  stages: (Stage & { model: string; pipeline: string })[];
}

export interface Pool {
  nodes: PoolNode[];
  pipelines: Pipeline[];
}

export interface Balance {
  account: string;
  asset: string;
  decimals: number;
  available: Amount;
  held: Amount;
}

export interface Session {
  account: string;
  wallet: string | null;
  wallets: string[];
  passkeys: number;
  recovery: boolean;
  asset: string;
  tier: string | null;
  spent: boolean;
  expires_at_ms: number;
}

export interface Passkey {
  id: string;
  host: string;
  made_at_ms: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
  cost: Amount;
  asset: string;
  credited: Amount | null;
  nodes: string[];
  /** Of each stretch of the answer the nodes that made it, in the order of layers. */
  segments: string[][];
  route: "pool" | "fallback";
  migrations: number;
  hold: string;
  receipt: string;
}

export interface Quote {
  model: string;
  prompt_tokens: number;
  max_tokens: number;
  context_length: number;
  cost: Amount;
  asset: string;
  payment: { cost: Amount; asset: string } | null;
}

export interface Network {
  network: string;
  name: string;
  asset: string;
  token: string;
  decimals: number;
  pay_to: string;
  local: boolean;
  /**
   * A node of it: of a LOCAL chain told on its own machine only (there the faucet gives too), of
   * another the network's public one.
   */
  rpc?: string | null;
}

export interface Tier {
  name: string;
  asset: string;
  price: Amount;
  max_tokens: number;
  max_prompt_tokens: number;
  model: string | null;
  temperature: number | null;
}

/**
 * What a pool is set up to be (GET /v1/setup). `next_tiers`, which are not sold now and will be (of a
 * private pool as soon as it is paid, else from the next start on), and `join` are for the admin key
 * alone.
 */
export interface Setup {
  model: string | null;
  models: string[];
  nodes_wanted: number;
  nodes_joined: number;
  missing: string[];
  paid: boolean;
  private: boolean;
  tiers: Tier[];
  rates: Rate[];
  next_start: string[];
  next_tiers: Tier[] | null;
  join: string | null;
  peer: string;
}
