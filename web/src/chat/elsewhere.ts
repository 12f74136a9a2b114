// Which answers come in other tabs of this browser: a tab holds a lock for as long as it makes one.

const PREFIX = "parhelion.answer.";

/** Do this under the answer's name, which the browser gives back however the tab ends. */
export async function coming(message: string, work: () => Promise<void>): Promise<void> {
  let isBegun = false;
  try {
    await navigator.locks.request(PREFIX + message, () => {
      isBegun = true;
      return work();
    });
  } catch (error) {
    if (isBegun) throw error;
    // There are locks on https and localhost alone, and not where a person lets pages keep nothing:
    // other tabs then take the answer for cut until it is whole.
    await work();
  }
}

/** Wait until no tab makes this answer any more; no time at all where that cannot be known. */
export async function ended(message: string): Promise<void> {
  try {
    await navigator.locks.request(PREFIX + message, { mode: "shared" }, () => undefined);
  } catch {
    // No locks here: as above.
  }
}
