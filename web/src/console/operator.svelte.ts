// Whether this tab has the admin key, and requests that carry it.

import { adminHeader, keepAdminKey } from "../api/admin";
import { get, post, Refused } from "../api/http";

const WRONG = {
  message: "This is not the admin key of this pool.",
  type: "authentication_error",
  code: "wrong_admin_key",
  hint: "Copy the whole line of the file admin.key in the coordinator’s data folder.",
};

class Operator {
  isIn = $state(adminHeader() !== null);
  /** Why a key that this tab had was given up; null where nothing was wrong with it. */
  refused = $state.raw<unknown>(null);

  /** The header of the admin key; empty without one. */
  get header(): Record<string, string> {
    return (this.isIn ? adminHeader() : null) ?? {};
  }

  /** Take a key if it is this pool's; Refused where it is not, and then it is not kept. */
  async enter(key: string): Promise<void> {
    keepAdminKey(key);
    this.refused = null;
    try {
      await this.#asked(() => get("/v1/console/money", adminHeader() ?? {}));
      this.isIn = true;
    } catch (caught) {
      this.leave();
      throw caught;
    }
  }

  leave(): void {
    keepAdminKey(null);
    this.isIn = false;
  }

  /** See whether the key that this tab kept still is this pool's. */
  async check(): Promise<void> {
    if (!this.isIn) return;
    try {
      await this.get("/v1/console/money");
    } catch {
      // What was wrong with the key is in `refused`; an absent coordinator the page tells itself.
    }
  }

  get<T>(path: string): Promise<T> {
    return this.#asked(() => get<T>(path, this.header));
  }

  send<T>(method: "POST" | "PUT" | "DELETE", path: string, body: unknown = {}): Promise<T> {
    return this.#asked(() => post<T>(path, body, this.header, method));
  }

  /** A key that is not taken (any more) is forgotten, and that is said in words of ours. */
  async #asked<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (caught) {
      if (!(caught instanceof Refused) || ![401, 403].includes(caught.status)) throw caught;
      this.leave();
      this.refused = new Refused(caught.status, WRONG, caught.headers);
      throw this.refused;
    }
  }
}

export const operator = new Operator();
