// The set-up as a person goes through it: what stands, what was chosen, and what came of it.

import { get } from "../api/http";
import type { Model, Setup } from "../api/shapes";
import { operator } from "../console/operator.svelte";
import { Standing } from "../console/standing.svelte";
import { body, changes, draftOf, faults, ratesOf } from "./plan";
import type { Draft } from "./plan";

export const STEPS = [
  { id: "model", name: "Model" },
  { id: "nodes", name: "Nodes" },
  { id: "kind", name: "Private or paid" },
  { id: "prices", name: "Tiers and rates" },
  { id: "review", name: "Review" },
] as const;

export type StepId = (typeof STEPS)[number]["id"];

export class Wizard {
  readonly standing = new Standing();
  models = $state.raw<Model[]>([]);
  draft = $state<Draft | null>(null);
  step = $state<StepId>("model");
  isApplying = $state(false);
  /** What was applied last; null before. */
  applied = $state.raw<Setup | null>(null);
  error = $state.raw<unknown>(null);

  /** What stands, in the words of a draft and with the rates of the model that is chosen. */
  readonly now = $derived.by<Draft | null>(() => {
    const setup = this.standing.setup;
    if (!setup) return null;
    const now = draftOf(setup, this.models);
    const rates = this.draft ? ratesOf(this.draft.model, setup, this.models) : now.rates;
    return { ...now, rates };
  });
  readonly faults = $derived(this.draft ? faults(this.draft) : []);
  readonly changes = $derived(
    this.draft && this.now && this.faults.length === 0
      ? changes(this.draft, this.now, this.standing.setup?.paid ?? false)
      : [],
  );

  /** Read what stands and begin with it. */
  async begin(): Promise<void> {
    this.error = null;
    try {
      this.models = (await get<{ data: Model[] }>("/v1/models")).data;
      this.standing.setup = await operator.get<Setup>("/v1/setup");
      this.draft = draftOf(this.standing.setup, this.models);
    } catch (caught) {
      this.error = caught;
    }
  }

  choose(model: string): void {
    const setup = this.standing.setup;
    if (!this.draft || !setup) return;
    this.draft.model = model;
    this.draft.rates = ratesOf(model, setup, this.models);
  }

  /** One step on (1) or back (-1); a private pool has no prices to go through. */
  go(by: 1 | -1): void {
    const steps = STEPS.filter((one) => one.id !== "prices" || !this.draft?.private);
    const at = steps.findIndex((one) => one.id === this.step);
    this.step = steps[Math.max(0, Math.min(steps.length - 1, at + by))]?.id ?? "model";
  }

  async apply(): Promise<void> {
    if (!this.draft || !this.now || this.faults.length > 0) return;
    [this.error, this.isApplying] = [null, true];
    try {
      const sent = body(this.draft, this.now);
      const setup = await operator.send<Setup>("PUT", "/v1/setup", sent);
      [this.standing.setup, this.applied] = [setup, setup];
      await this.begin();
    } catch (caught) {
      this.error = caught;
    } finally {
      this.isApplying = false;
    }
  }

  close(): void {
    this.standing.close();
  }
}
