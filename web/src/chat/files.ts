// Text files that are dropped on the prompt or pasted into it; pure but for reading them.
import type { Attached } from "./tree";

export const FILE_LIMIT_BYTES = 256 * 1024;
/** About 64,000 tokens: more than small models can hold; what is beyond is cut, and told. */

export const FILES_LIMIT = 10;
/** Names that still fit under the prompt on a phone. */

/** The file as text: cut at the limit, or refused with the reason. */
export function attached(name: string, bytes: Uint8Array): Attached | string {
  const cut = bytes.length > FILE_LIMIT_BYTES;
  const kept = cut ? bytes.subarray(0, FILE_LIMIT_BYTES) : bytes;
  let text: string;
  try {
    // `stream`: a character that the limit cuts in two is no fault of the file.
    text = new TextDecoder("utf-8", { fatal: true }).decode(kept, { stream: cut });
  } catch {
    return `${name} is not text in UTF-8, so it was not added.`;
  }
  if (text.includes("\0")) return `${name} is not a text file, so it was not added.`;
  if (text.trim() === "") return `${name} is empty, so it was not added.`;
  const note = cut
    ? `only the first ${FILE_LIMIT_BYTES / 1024} kB of ${Math.ceil(bytes.length / 1024)} kB`
    : null;
  return { name, text, note };
}

/** Read what was dropped; `had` files are there already. */
export async function read(
  files: File[],
  had: number,
): Promise<{ added: Attached[]; told: string[] }> {
  const room = Math.max(0, FILES_LIMIT - had);
  const added: Attached[] = [];
  const told: string[] = [];
  for (const file of files.slice(0, room)) {
    try {
      // One byte more than the limit would do; its size is told from the file itself.
      const bytes = new Uint8Array(await file.slice(0, FILE_LIMIT_BYTES + 4).arrayBuffer());
      const one = attached(file.name, bytes);
      if (typeof one === "string") told.push(one);
      else {
        if (one.note !== null) {
          one.note = `only the first ${FILE_LIMIT_BYTES / 1024} kB of ${Math.ceil(file.size / 1024)} kB`;
          told.push(`${file.name}: ${one.note} were added.`);
        }
        added.push(one);
      }
    } catch {
      told.push(`${file.name} could not be read: is it a folder, or was it moved?`);
    }
  }
  if (files.length > room) told.push(`At most ${FILES_LIMIT} files go with one message.`);
  return { added, told };
}
