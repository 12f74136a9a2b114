// The conversations that this browser keeps, and what became of keeping them.
import { found, Store, type Entry } from "./store";
import { IMPORT_LIMIT_BYTES, readBack, written } from "./transfer";
import { TITLE_LIMIT_CHARS, type Conversation } from "./tree";

const TOLD_MS = 8_000;
/** What went well is said, and need not stay. */

const CHANNEL = "parhelion.chat";

export class History {
  entries = $state.raw<Entry[]>([]);
  search = $state("");
  problem = $state<string | null>(null);
  told = $state<string | null>(null);
  /** The one that was deleted last, for as long as it can be brought back. */
  removed = $state.raw<Conversation | null>(null);
  readonly shown = $derived(found(this.entries, this.search));
  #store: Store | null = null;
  #others: BroadcastChannel | null = null;

  async start(): Promise<void> {
    await this.#try(async () => {
      this.#store = await Store.open();
      this.#others = new BroadcastChannel(CHANNEL);
      this.#others.onmessage = () => void this.#refresh();
      await this.#refresh();
    });
  }

  async load(id: string): Promise<Conversation | null> {
    return (await this.#try(async () => this.#store?.load(id))) ?? null;
  }

  async save(conversation: Conversation): Promise<void> {
    await this.#try(async () => {
      await this.#store?.save($state.snapshot(conversation) as Conversation);
      await this.#changed();
    });
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
      await this.#changed();
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
      await this.#changed();
    });
  }

  #tell(text: string): void {
    this.told = text;
    setTimeout(() => {
      if (this.told === text) this.told = null;
    }, TOLD_MS);
  }

  async #changed(): Promise<void> {
    this.#others?.postMessage("changed");
    await this.#refresh();
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
