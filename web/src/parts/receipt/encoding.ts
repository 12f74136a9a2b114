// Bytes and texts as receipts write them, in canonical forms only; pure.

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PEER_CHARS = 52;
// libp2p's identity multihash over its protobuf of an Ed25519 key.
const PEER_PREFIX = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
const KEY_BYTES = 32;

/**
 * RFC 8785: members sorted by UTF-16 units, numbers and texts as ECMAScript writes them. An Error
 * for what has no such form.
 */
export function canonical(value: unknown): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new Error("text that is no Unicode");
    return JSON.stringify(value);
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new Error("a number that is not finite");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object") {
    const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    const inside = members.map(([name, one]) => `${canonical(name)}:${canonical(one)}`);
    return `{${inside.join(",")}}`;
  }
  throw new Error(`no JSON: ${typeof value}`);
}

/** The Ed25519 key that a peer id names; null for any other text. */
export function keyOfPeer(peer: string): Uint8Array<ArrayBuffer> | null {
  if (peer.length !== PEER_CHARS) return null;
  let number = 0n;
  for (const character of peer) {
    const value = ALPHABET.indexOf(character);
    if (value < 0) return null;
    number = number * 58n + BigInt(value);
  }
  const raw = new Uint8Array(PEER_PREFIX.length + KEY_BYTES);
  for (let at = raw.length - 1; at >= 0; at -= 1) {
    raw[at] = Number(number & 0xffn);
    number >>= 8n;
  }
  // The first prefix byte is zero: the leading "1" stands for it, and there is one only.
  const isPeer = number === 0n && PEER_PREFIX.every((byte, at) => raw[at] === byte);
  return isPeer && peer.startsWith("1") && peer[1] !== "1" ? raw.slice(PEER_PREFIX.length) : null;
}

/** The bytes of unpadded base64url; null unless the text is their one form. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> | null {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return null;
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const again = btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  if (again !== text) return null;
  return Uint8Array.from(raw, (character) => character.charCodeAt(0));
}

export function bytesOfHex(text: string): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(text.length / 2);
  for (let at = 0; at < made.length; at += 1) {
    made[at] = Number.parseInt(text.slice(2 * at, 2 * at + 2), 16);
  }
  return made;
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

export function joined(...pieces: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(pieces.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const one of pieces) {
    made.set(one, at);
    at += one.length;
  }
  return made;
}
