// Conversations in this browser's IndexedDB: a short list apart from the long bodies, so that the
// drawer opens as quickly with 500 of them as with one.
import { merged, path, type Conversation } from "./tree";

const DATABASE = "parhelion.chat";
const VERSION = 1;
const LIST = "list";
const BODIES = "bodies";
const PREVIEW_CHARS = 400;

/** What the drawer shows and searches. */
export interface Entry {
  id: string;
  title: string;
  preview: string;
  created_at_ms: number;
  changed_at_ms: number;
}

export function entryOf(conversation: Conversation): Entry {
  const words = path(conversation).map((one) => one.text.slice(0, PREVIEW_CHARS));
  return {
    id: conversation.id,
    title: conversation.title,
    preview: words.join(" ").slice(0, PREVIEW_CHARS),
    created_at_ms: conversation.created_at_ms,
    changed_at_ms: conversation.changed_at_ms,
  };
}

/** Those that have every word of the search, the latest first. */
export function found(entries: Entry[], search: string): Entry[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return entries
    .filter((one) => {
      const text = `${one.title} ${one.preview}`.toLowerCase();
      return words.every((word) => text.includes(word));
    })
    .sort((a, b) => b.changed_at_ms - a.changed_at_ms);
}

/** The browser's own store. Every failure is thrown to be told: a history that is lost is worse. */
export class Store {
  readonly #database: IDBDatabase;

  private constructor(database: IDBDatabase) {
    this.#database = database;
  }

  static async open(): Promise<Store> {
    const opening = indexedDB.open(DATABASE, VERSION);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore(LIST, { keyPath: "id" });
      opening.result.createObjectStore(BODIES, { keyPath: "id" });
    };
    const database = await result(opening);
    // A later version of these pages in another tab must not wait for this one.
    database.onversionchange = () => database.close();
    return new Store(database);
  }

  async list(): Promise<Entry[]> {
    return result(this.#database.transaction(LIST).objectStore(LIST).getAll());
  }

  async load(id: string): Promise<Conversation | null> {
    const store = this.#database.transaction(BODIES).objectStore(BODIES);
    return ((await result(store.get(id))) as Conversation | undefined) ?? null;
  }

  async loadAll(): Promise<Conversation[]> {
    return result(this.#database.transaction(BODIES).objectStore(BODIES).getAll());
  }

  /**
   * Keep it; what another tab added meanwhile is kept too. What `wasKept` and is not here was
   * deleted in another tab: it stays deleted, and the answer is false.
   */
  async save(conversation: Conversation, wasKept: boolean): Promise<boolean> {
    const both = this.#database.transaction([LIST, BODIES], "readwrite");
    const bodies = both.objectStore(BODIES);
    const stored = (await result(bodies.get(conversation.id))) as Conversation | undefined;
    const isGone = wasKept && stored === undefined;
    if (!isGone) {
      const whole = stored ? merged(stored, conversation) : conversation;
      bodies.put(whole);
      both.objectStore(LIST).put(entryOf(whole));
    }
    await done(both);
    return !isGone;
  }

  /** Keep those that are not here yet; how many that were. */
  async addNew(conversations: Conversation[]): Promise<number> {
    const both = this.#database.transaction([LIST, BODIES], "readwrite");
    const bodies = both.objectStore(BODIES);
    const here = new Set(await result(bodies.getAllKeys()));
    let count = 0;
    for (const one of conversations) {
      if (here.has(one.id)) continue;
      bodies.put(one);
      both.objectStore(LIST).put(entryOf(one));
      here.add(one.id);
      count += 1;
    }
    await done(both);
    return count;
  }

  async remove(id: string): Promise<void> {
    const both = this.#database.transaction([LIST, BODIES], "readwrite");
    both.objectStore(LIST).delete(id);
    both.objectStore(BODIES).delete(id);
    await done(both);
  }
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's store failed"));
  });
}

function done(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("the browser kept nothing"));
  });
}
