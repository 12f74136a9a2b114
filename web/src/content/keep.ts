// A bought answer is kept where chats are: a reload, or a closed tab, loses nothing that was paid.

import { withUsage } from "../chat/billed";
import { Store } from "../chat/store";
import type { Outcome } from "../chat/stream";
import { added, changed, empty, unknownFacts } from "../chat/tree";
import type { Conversation, Facts, Message } from "../chat/tree";

/** What the chat's tabs listen to: they show what another tab kept. */
const CHANNEL = "parhelion.chat";

/** One prompt and its answer as a conversation of this browser's. */
export class Keeping {
  readonly id = newId();
  /** The answer's own name, by which other tabs know that it still comes. */
  readonly answer = newId();
  readonly #begun: Conversation;
  #store: Promise<Store> | null = null;
  #isKept = false;

  constructor(prompt: string, now_ms: number) {
    const common = { files: [], at_ms: now_ms };
    const asked: Message = {
      ...{ ...common, id: newId(), parent: null, role: "user", text: prompt, facts: null },
    };
    const coming: Message = {
      ...{ ...common, id: this.answer, parent: asked.id, role: "assistant", text: "" },
      facts: unknownFacts("streaming"),
    };
    this.#begun = added(added(empty(this.id, now_ms), asked), coming);
  }

  get title(): string {
    return this.#begun.title;
  }

  /** The conversation with so much of the answer; `ended` is null while it comes. */
  with(text: string, request: string | null, ended: Outcome | null, now_ms: number): Conversation {
    const coming = this.#begun.messages[1]!;
    const facts = ended ? factsOf(ended) : { ...coming.facts!, request };
    return changed(this.#begun, { ...coming, text, facts }, now_ms);
  }

  /** Keep it so; false where this browser keeps nothing, or another tab deleted it. */
  async save(text: string, request: string | null, ended: Outcome | null): Promise<boolean> {
    try {
      this.#store ??= Store.open();
      const store = await this.#store;
      const isKept = await store.save(this.with(text, request, ended, Date.now()), this.#isKept);
      this.#isKept ||= isKept;
      const others = new BroadcastChannel(CHANNEL);
      others.postMessage({ changed: this.id });
      others.close();
      return isKept;
    } catch {
      // A private window, or no room: the page says that it is not kept.
      this.#store = null;
      return false;
    }
  }
}

function factsOf(ended: Outcome): Facts {
  const { state, model, finish, error, hint, code, request, completion } = ended;
  const facts: Facts = {
    ...unknownFacts(state),
    ...{ model, finish, error, hint, code, request, completion },
    ...{ first_token_ms: ended.first_token_ms, tokens_per_s: ended.tokens_per_s },
  };
  // This page asks nobody what the nodes are called.
  return ended.usage ? withUsage(facts, ended.usage, new Map()) : facts;
}

function newId(): string {
  // randomUUID is there on https and localhost alone.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
