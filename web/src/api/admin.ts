// The admin key, as the operator pasted it: in this tab alone, gone with it.

const NAME = "parhelion.admin";

/** The header of the admin key; null where none was pasted. */
export function adminHeader(): Record<string, string> | null {
  const key = kept();
  return key === null ? null : { authorization: `Bearer ${key}` };
}

/** Keep the admin key for this tab; null forgets it. */
export function keepAdminKey(key: string | null): void {
  // What no header can hold is no key: it is sent without it, and refused in words.
  if (key === null) sessionStorage.removeItem(NAME);
  else sessionStorage.setItem(NAME, key.replace(/[^\x21-\x7e]/g, ""));
}

function kept(): string | null {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // The browser keeps nothing for pages.
  }
}
