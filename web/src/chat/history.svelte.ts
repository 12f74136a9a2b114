// The conversations that this browser keeps, and what became of keeping them.
import { found, Store, type Entry } from "./store";
import { IMPORT_LIMIT_BYTES, readBack, written } from "./transfer";
import { TITLE_LIMIT_CHARS, type Conversation } from "./tree";

const TOLD_MS = 8_000;
/** What went well is said, and need not stay. */

const CHANNEL = "parhelion.chat";

/** What one tab tells the others: which conversation is another now; null for any of them. */
interface Word {
  changed: string | null;
}

export class History {
  entries = $state.raw<Entry[]>([]);
  search = $state("");
  problem = $state<string | null>(null);
  told = $state<string | null>(null);
  /** The one that was deleted last, for as long as it can be brought back. */
  removed = $state.raw<Conversation | null>(null);
  /** Those that this tab had and another one deleted. */
  deleted = $state.raw<ReadonlySet<string>>(new Set());
  readonly shown = $derived(found(this.entries, this.search));
  /** Told when another tab changed a conversation, and what it is now; null for deleted. */
  onchanged: (id: string, stored: Conversation | null) => void = () => undefined;
  readonly #kept = new Set<string>();
  #store: Store | null = null;
  #others: BroadcastChannel | null = null;

  async start(): Promise<void> {
    await this.#try(async () => {
      this.#store = await Store.open();
      this.#others = new BroadcastChannel(CHANNEL);
      this.#others.onmessage = ({ data }: MessageEvent<Word>) => void this.#heard(data);
      await this.#refresh();
    });
  }

  async load(id: string): Promise<Conversation | null> {
    const found = (await this.#try(async () => this.#store?.load(id))) ?? null;
    if (found) this.#kept.add(id);
    return found;
  }

  async save(conversation: Conversation): Promise<void> {
    const { id } = conversation;
    await this.#try(async () => {
      const whole = $state.snapshot(conversation) as Conversation;
      if (!this.#store) return;
      if (!(await this.#store.save(whole, this.#kept.has(id)))) return this.#mark(id, true);
      this.#kept.add(id);
      await this.#changed(id);
    });
  }

  /** Another tab deleted it, and it is wanted here: the next save keeps it again. */
  wanted(id: string): void {
    if (!this.deleted.has(id)) return;
    this.#kept.delete(id);
    this.#mark(id, false);
  }

  async rename(id: string, title: string): Promise<Conversation | null> {
    const conversation = await this.load(id);
    const wanted = title.trim().slice(0, TITLE_LIMIT_CHARS);
    if (!conversation || wanted === "") return null;
    const renamed = { ...conversation, title: wanted };
    await this.save(renamed);
    return renamed;
  }

  async remove(id: string): Promise<void> {
    await this.#try(async () => {
      this.removed = (await this.#store?.load(id)) ?? null;
      await this.#store?.remove(id);
      this.#kept.delete(id);
      await this.#changed(id);
    });
  }

  async restore(): Promise<void> {
    const conversation = this.removed;
    this.removed = null;
    if (conversation) await this.save(conversation);
  }

  /** All conversations, or one, as a file to keep. */
  async exportFile(id: string | null): Promise<void> {
    await this.#try(async () => {
      const all =
        id === null ? ((await this.#store?.loadAll()) ?? []) : [await this.#store?.load(id)];
      const whole = all.filter((one) => one !== null && one !== undefined);
      const text = written(whole, Date.now());
      const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      const link = document.createElement("a");
      link.href = url;
      link.download = `parhelion-chats-${new Date().toISOString().slice(0, 10)}.json`;
      link.click();
      URL.revokeObjectURL(url);
      this.#tell(
        `${whole.length} ${whole.length === 1 ? "conversation" : "conversations"} exported.`,
      );
    });
  }

  async importFile(file: File): Promise<void> {
    await this.#try(async () => {
      if (file.size > IMPORT_LIMIT_BYTES) {
        throw new Error(`The file is larger than ${IMPORT_LIMIT_BYTES / 1024 / 1024} MB.`);
      }
      const conversations = readBack(await file.text());
      const count = (await this.#store?.addNew(conversations)) ?? 0;
      const here = conversations.length - count;
      this.#tell(`${count} imported${here > 0 ? `, ${here} were here already` : ""}.`);
      await this.#changed(null);
    });
  }

  #tell(text: string): void {
    this.told = text;
    setTimeout(() => {
      if (this.told === text) this.told = null;
    }, TOLD_MS);
  }

  async #changed(id: string | null): Promise<void> {
    this.#others?.postMessage({ changed: id } satisfies Word);
    await this.#refresh();
  }

  /** Another tab's word; of one that is not from here the list is read all the same. */
  async #heard(word: Word | null): Promise<void> {
    await this.#try(async () => {
      await this.#refresh();
      const id = word?.changed;
      if (typeof id !== "string" || !this.#kept.has(id)) return;
      const stored = (await this.#store?.load(id)) ?? null;
      this.#mark(id, stored === null);
      this.onchanged(id, stored);
    });
  }

  #mark(id: string, isDeleted: boolean): void {
    if (this.deleted.has(id) === isDeleted) return;
    const marked = new Set(this.deleted);
    if (isDeleted) marked.add(id);
    else marked.delete(id);
    this.deleted = marked;
  }

  async #refresh(): Promise<void> {
    this.entries = (await this.#store?.list()) ?? [];
  }

  /** What a browser refuses to keep is told, and the conversation goes on in this tab. */
  async #try<T>(step: () => Promise<T>): Promise<T | undefined> {
    try {
      const made = await step();
      this.problem = null;
      return made;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.problem = `History: ${why} What is on this page goes on, but may not be kept.`;
      return undefined;
    }
  }
}
