// The conversation that is shown, and the one answer that may be coming.
import { get } from "../api/http";
import { credentials } from "../api/key";
import { named, withReceipt, withUsage, type ReceiptBody } from "./billed";
import { Blocks, type Block } from "./blocks";
import { coming, ended } from "./elsewhere";
import { announced } from "./figures";
import type { History } from "./history.svelte";
import { Painter } from "./paint";
import type { Pool } from "./pool.svelte";
import { parts, withoutReasoning } from "./reasoning";
import { renderer } from "./renderer.svelte";
import { bodyText, sampling, storedSettings, type Settings } from "./settings";
import { ask, type Outcome } from "./stream";
import * as tree from "./tree";
import type { Attached, Conversation, Facts, Message, Named } from "./tree";

const PAUSE_MS = 1_500;
/** Without a token for so long, the reader is told that the node is waited for. */
const KEEP_MS = 1_000;
/** How often a growing answer is kept, so that a closed tab loses little of it. */
const RECEIPT_WAITS_MS = [600, 2_000, 5_000];
/** A node has two seconds to sign; after them the receipt is there. */

/** An answer that is coming. */
export interface Live {
  conversation: string;
  message: string;
  reasoning: string | null;
  finished: Block[];
  open: Block | null;
  phase: "asked" | "streaming" | "paused";
  /** Who made its first words, in order of the route; none before they are known. */
  nodes: Named[];
  hasMoved: boolean;
}

export class Talk {
  conversation = $state.raw<Conversation>(tree.empty(newId(), Date.now()));
  settings = $state<Settings>(storedSettings());
  live = $state.raw<Live | null>(null);
  announcement = $state("");
  readonly path = $derived(tree.path(this.conversation));
  /** The last answer comes in another tab: what follows it can be asked once it is whole. */
  readonly isElsewhere = $derived(
    this.live === null && this.path.at(-1)?.facts?.state === "streaming",
  );
  readonly #pool: Pool;
  readonly #history: History;
  readonly #awaited = new Set<string>();
  #stopping: AbortController | null = null;

  constructor(pool: Pool, history: History) {
    this.#pool = pool;
    this.#history = history;
    history.onchanged = (id, stored) => this.#take(id, stored);
  }

  /** The body of a request with one more question; the seed stands in it to its last digit. */
  bodyWith(messages: Message[], isStreamed: boolean): string {
    const { system, model, seed } = this.settings;
    const turns = tree.told(messages).map((one) => ({
      role: one.role as string,
      content: one.role === "user" ? tree.contentOf(one) : withoutReasoning(tree.contentOf(one)),
    }));
    const asked = turns.filter((one) => one.content !== "");
    if (system.trim() !== "") asked.unshift({ role: "system", content: system });
    const fields: Record<string, unknown> = { messages: asked };
    const wanted = this.#pool.modelOf(model)?.id ?? model;
    if (wanted) fields.model = wanted;
    const chosen = sampling(this.settings);
    if (!isStreamed) {
      // A quote takes what a price hangs on.
      return JSON.stringify({ ...fields, max_tokens: chosen.max_tokens });
    }
    Object.assign(fields, chosen, { stream: true, stream_options: { include_usage: true } });
    return bodyText(fields, seed);
  }

  question(text: string, files: Attached[], parent: string | null): Message {
    const at_ms = Date.now();
    return { id: newId(), parent, role: "user", text, files, at_ms, facts: null };
  }

  async send(text: string, files: Attached[]): Promise<void> {
    if (this.isElsewhere) return;
    await this.#askWith(this.question(text, files, this.path.at(-1)?.id ?? null));
  }

  /** Another wording of a question, beside the old one. */
  async edit(message: Message, text: string): Promise<void> {
    await this.#askWith(this.question(text, message.files, message.parent));
  }

  async #askWith(question: Message): Promise<void> {
    if (this.live) return;
    this.conversation = tree.added(this.conversation, question);
    await this.#answer(question.id);
  }

  /** Another answer to the same question. */
  async regenerate(answer: Message): Promise<void> {
    if (!this.live && answer.parent !== null) await this.#answer(answer.parent);
  }

  turn(message: Message, step: number): void {
    this.conversation = tree.turned(this.conversation, message, step);
    void this.#history.save(this.conversation);
  }

  async branch(message: Message): Promise<void> {
    this.conversation = tree.branched(this.conversation, message.id, newId(), Date.now());
    await this.#history.save(this.conversation);
    this.announcement = "A new conversation with everything up to this answer.";
  }

  stop(): void {
    this.#stopping?.abort();
  }

  begin(): void {
    this.conversation = tree.empty(newId(), Date.now());
  }

  async open(id: string): Promise<void> {
    const found = await this.#history.load(id);
    if (found) this.#show(found);
  }

  /** Keep here what another tab deleted. */
  keep(): void {
    this.#history.wanted(this.conversation.id);
    void this.#history.save(this.conversation);
  }

  /** What another tab wrote to this conversation stands here too, and what is shown stays. */
  #take(id: string, stored: Conversation | null): void {
    if (id !== this.conversation.id || !stored) return;
    this.#show({ ...tree.merged(stored, this.conversation), title: stored.title });
  }

  #show(conversation: Conversation): void {
    this.conversation = conversation;
    for (const one of conversation.messages) {
      const isOpen = one.facts?.state === "streaming" && one.id !== this.live?.message;
      if (isOpen) void this.#settle(conversation.id, one.id);
    }
  }

  /** An answer of another tab is whole once that has ended it; of a tab that is gone it is cut. */
  async #settle(home: string, id: string): Promise<void> {
    if (this.#awaited.has(id)) return;
    this.#awaited.add(id);
    await ended(id);
    this.#awaited.delete(id);
    const stored = await this.#history.load(home);
    if (this.conversation.id !== home) return;
    const whole = stored ? tree.merged(stored, this.conversation) : this.conversation;
    const messages = whole.messages.map((one) => {
      if (one.id !== id || one.facts?.state !== "streaming") return one;
      const error = "The page was closed while this answer came.";
      return { ...one, facts: { ...one.facts, state: "cut" as const, error } };
    });
    this.conversation = { ...whole, messages };
    const cut = messages.find((one) => one.id === id);
    // What had come by then is charged: its receipt says how much.
    if (cut?.facts?.state === "cut" && !cut.facts.receipt) await this.#bill(home, cut);
  }

  async #answer(questionId: string): Promise<void> {
    const home = this.conversation.id;
    const messages = tree.lineage(this.conversation, questionId);
    const body = this.bodyWith(messages, true);
    const message: Message = {
      ...{ id: newId(), parent: questionId, role: "assistant", text: "", files: [] },
      ...{ at_ms: Date.now(), facts: tree.unknownFacts("streaming") },
    };
    this.conversation = tree.added(this.conversation, message);
    const growing = new Growing(home, message.id, {
      live: (live) => (this.live = live),
      begun: () => {
        // What is held for this answer is seen while it comes.
        void this.#pool.purse();
        keep();
      },
      named: (peers) => named(peers, this.#pool.names),
    });
    /** By the request's name the receipt is found, should this page be closed before the end. */
    const keep = (): void => {
      const facts = { ...message.facts!, request: growing.request };
      void this.#keep(home, { ...message, text: growing.text, facts });
    };
    renderer.load();
    const stopping = new AbortController();
    this.#stopping = stopping;
    this.announcement = "Waiting for the answer.";
    this.#history.wanted(home);
    let answer = message;
    await coming(message.id, async () => {
      void this.#history.save(this.conversation);
      const keeping = setInterval(keep, KEEP_MS);
      const outcome = await ask(body, growing, stopping.signal);
      clearInterval(keeping);
      growing.end();
      answer = { ...message, text: growing.text, facts: this.#factsOf(outcome) };
      await this.#keep(home, answer);
    });
    this.#stopping = null;
    this.live = null;
    this.announcement = announced(answer.facts!);
    void this.#pool.look();
    if (!answer.facts?.receipt) await this.#bill(home, answer);
  }

  #factsOf(outcome: Outcome): Facts {
    const facts: Facts = {
      ...tree.unknownFacts(outcome.state),
      ...{ model: outcome.model, finish: outcome.finish, error: outcome.error },
      ...{
        code: outcome.code,
        hint: outcome.hint,
        request: outcome.request,
        completion: outcome.completion,
      },
      ...{ first_token_ms: outcome.first_token_ms, tokens_per_s: outcome.tokens_per_s },
    };
    return outcome.usage ? withUsage(facts, outcome.usage, this.#pool.names) : facts;
  }

  /** Keep a message where it belongs, whichever conversation is shown now. */
  async #keep(home: string, message: Message): Promise<void> {
    const isShown = this.conversation.id === home;
    const whole = isShown ? this.conversation : await this.#history.load(home);
    if (!whole) return; // Deleted while its answer came.
    const kept = tree.changed(whole, message, Date.now());
    if (isShown) this.conversation = kept;
    await this.#history.save(kept);
  }

  /** What was stopped or cut is billed all the same: the receipt has what the stream did not say. */
  async #bill(home: string, message: Message): Promise<void> {
    const name = message.facts?.completion ?? message.facts?.request;
    if (!name || !message.facts || message.facts.state === "done") return;
    if (message.text === "" && message.facts.state === "failed") return;
    for (const wait_ms of RECEIPT_WAITS_MS) {
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
      try {
        const path = `/v1/receipts/${encodeURIComponent(name)}`;
        const receipt = await get<ReceiptBody>(path, credentials());
        const facts = withReceipt(message.facts, receipt, this.#pool.names);
        await this.#keep(home, { ...message, facts });
        void this.#pool.purse();
        return;
      } catch {
        // Not there yet, or nothing was billed: what is not known is shown as that.
      }
    }
  }
}

/** Who is told of an answer that grows. */
interface Told {
  live(live: Live): void;
  begun(): void;
  named(peers: string[]): Named[];
}

/** The text of an answer as it grows, cut into blocks and drawn with the screen's frames. */
class Growing {
  text = "";
  request: string | null = null;
  readonly #told: Told;
  readonly #blocks = new Blocks();
  readonly #painter = new Painter(() => this.#draw());
  readonly #watch: ReturnType<typeof setInterval>;
  #live: Live;
  #last_ms = 0;

  constructor(conversation: string, message: string, told: Told) {
    this.#told = told;
    const nothing = { reasoning: null, finished: [], open: null, nodes: [], hasMoved: false };
    this.#live = { conversation, message, phase: "asked", ...nothing };
    told.live(this.#live);
    this.#watch = setInterval(() => this.#look(), PAUSE_MS / 3);
  }

  begun(request: string | null, peers: string[]): void {
    this.request = request;
    this.#live = { ...this.#live, nodes: this.#told.named(peers) };
    this.#told.live(this.#live);
    this.#told.begun();
  }

  moved(peers: string[]): void {
    this.#live = { ...this.#live, nodes: this.#told.named(peers), hasMoved: true };
    this.#told.live(this.#live);
  }

  add(piece: string): void {
    this.text += piece;
    this.#last_ms = performance.now();
    this.#painter.ask();
  }

  end(): void {
    clearInterval(this.#watch);
    this.#painter.cancel();
  }

  #look(): void {
    const isPaused = this.#last_ms > 0 && performance.now() - this.#last_ms > PAUSE_MS;
    if (!isPaused || this.#live.phase === "paused") return;
    this.#live = { ...this.#live, phase: "paused" };
    this.#told.live(this.#live);
  }

  #draw(): void {
    const { reasoning, answer } = parts(this.text);
    this.#blocks.update(answer);
    const { finished, open } = this.#blocks;
    // The same list while no block was finished: what stands above is not looked at.
    const isSame = finished.length === this.#live.finished.length;
    this.#live = {
      ...this.#live,
      phase: "streaming",
      reasoning,
      finished: isSame ? this.#live.finished : [...finished],
      open,
    };
    this.#told.live(this.#live);
  }
}

function newId(): string {
  // randomUUID is there on https and localhost alone.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
