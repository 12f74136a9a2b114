// Amounts are strings of integer base units; nothing here makes a float of money.

const DECIMALS = 6;

/** "5680" -> "0.00568": all of it, without trailing zeros, at least `places` digits. */
export function plain(micro: string, places = 2, decimals = DECIMALS): string {
  const value = BigInt(micro);
  const sign = value < 0n ? "−" : "";
  const digits = (value < 0n ? -value : value).toString().padStart(decimals + 1, "0");
  const whole = digits.slice(0, -decimals);
  const part = digits.slice(-decimals).replace(/0+$/, "").padEnd(places, "0");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return `${sign}${grouped}${part ? `.${part}` : ""}`;
}

/** The short name of an asset as a person says it: "USDC.local" is test money and says so. */
export function money(micro: string, asset: string, decimals = DECIMALS): string {
  return `${plain(micro, 2, decimals)} ${asset}`;
}

/** What a person typed, "0.25", as base units: "250000"; throws where it is no such amount. */
export function microOf(text: string, decimals = DECIMALS): string {
  const found = /^(\d{1,12})(?:\.(\d+))?$/.exec(text.trim());
  const part = found?.[2] ?? "";
  if (!found || part.length > decimals) {
    throw new Error(`Write an amount as 0.25, with at most ${decimals} digits after the point.`);
  }
  return BigInt(`${found[1]}${part.padEnd(decimals, "0")}`).toString();
}
