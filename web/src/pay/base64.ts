// Base64 of bytes and of text in UTF-8, as x402's headers and Solana's transactions travel.

/** Bytes as base64. */
export function base64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** Base64 as bytes; throws where it is none. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** A value as base64 of its JSON. */
export function base64Json(value: unknown): string {
  return base64(new TextEncoder().encode(JSON.stringify(value)));
}
