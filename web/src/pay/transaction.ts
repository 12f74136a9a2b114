// A Solana transaction as bytes: where a signer's place is, and putting a signature there.
// Source: Solana's transaction format (compact-u16 lengths, versioned messages).

import { base58 } from "./base58";

const SIGNATURE_BYTES = 64;
const KEY_BYTES = 32;
const SIGNERS_LIMIT = 8;
/** The exact scheme has two signers: who pays the fee and who pays. */

/** What of a transaction is signed, and whose signatures it wants, in order. */
export interface Unsigned {
  message: Uint8Array<ArrayBuffer>;
  signers: string[];
}

/** Read a transaction; throws where it is not one of ours. */
export function parts(bytes: Uint8Array<ArrayBuffer>): Unsigned {
  const count = bytes[0] ?? 0;
  if (count < 1 || count > SIGNERS_LIMIT) throw new Error("not a transaction that is signed here");
  const message = bytes.slice(1 + count * SIGNATURE_BYTES);
  // A message of version 0 begins with 0x80; an old one at once with its header.
  const header = (message[0] ?? 0) & 0x80 ? 1 : 0;
  const wanted = message[header] ?? 0;
  const keys = message[header + 3] ?? 0;
  const at = header + 4;
  if (wanted !== count || keys < count || message.length < at + keys * KEY_BYTES) {
    throw new Error("the transaction is cut short");
  }
  const signers = Array.from({ length: count }, (_, index) =>
    base58(message.slice(at + index * KEY_BYTES, at + (index + 1) * KEY_BYTES)),
  );
  return { message, signers };
}

/** The transaction with this signer's signature in its place. */
export function withSignature(
  bytes: Uint8Array<ArrayBuffer>,
  address: string,
  signature: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const place = parts(bytes).signers.indexOf(address);
  if (place < 0) throw new Error("the transaction does not ask for this wallet");
  if (signature.length !== SIGNATURE_BYTES) throw new Error("not a signature");
  const signed = bytes.slice();
  signed.set(signature, 1 + place * SIGNATURE_BYTES);
  return signed;
}
