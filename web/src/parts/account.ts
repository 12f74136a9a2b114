// Accounts as people tell them apart.

const TAIL_CHARS = 8;

/** "acct_…4ocuidk0": the end is of chance, forty bits of it, so that no two look alike. */
export function short(account: string): string {
  const at = account.indexOf("_") + 1;
  const tail = account.slice(at);
  return tail.length > TAIL_CHARS ? `${account.slice(0, at)}…${tail.slice(-TAIL_CHARS)}` : account;
}
