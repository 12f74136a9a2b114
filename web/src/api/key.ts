// The API key that a person pasted. It spends money, so it stays in this tab and ends with it.

const NAME = "parhelion.key";
const LIMIT_CHARS = 256;
const FORM = /^[\x21-\x7e]+$/;

/** The key of this tab; null where none was pasted, or the browser keeps nothing for pages. */
export function pastedKey(): string | null {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

/** Keep a key for this tab; null forgets it. False for what can be no key. */
export function keepKey(key: string | null): boolean {
  if (key === null) {
    sessionStorage.removeItem(NAME);
    return true;
  }
  const trimmed = key.trim();
  if (trimmed.length > LIMIT_CHARS || !FORM.test(trimmed)) return false;
  sessionStorage.setItem(NAME, trimmed);
  return true;
}

/** The header of a pasted key; without one the session's cookie goes by itself. */
export function credentials(): Record<string, string> {
  const key = pastedKey();
  return key === null ? {} : { authorization: `Bearer ${key}` };
}
