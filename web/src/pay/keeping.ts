// The key of the test wallet, kept by this browser; nobody can read it out, not even this page.

const DATABASE = "parhelion-test-wallet";
const STORE = "keys";
const NAME = "solana";

export interface TestKey {
  key: CryptoKey;
  address: string;
}

/** The key that is kept here; null without one. */
export async function kept(): Promise<TestKey | null> {
  const found = await within<TestKey | undefined>("readonly", (store) => store.get(NAME));
  return found ?? null;
}

/** Keep this key in the place of any other. */
export async function keep(made: TestKey): Promise<void> {
  await within("readwrite", (store) => store.put(made, NAME));
}

/** Forget it; the test money that it had is nobody's then. */
export async function forget(): Promise<void> {
  await within("readwrite", (store) => store.delete(NAME));
}

function within<T>(
  mode: IDBTransactionMode,
  call: (store: IDBObjectStore) => IDBRequest,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      const transaction = database.transaction(STORE, mode);
      const asking = call(transaction.objectStore(STORE));
      transaction.oncomplete = () => {
        database.close();
        resolve(asking.result as T);
      };
      transaction.onabort = () => {
        database.close();
        reject(transaction.error);
      };
    };
  });
}
