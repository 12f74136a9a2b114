// Server-sent events read from a fetch, as streamed answers come: `data:` lines, and comments to who asks for them.

const EVENT_LIMIT_CHARS = 4 * 1024 * 1024;
/** Larger than any answer; a server that never ends a line must not fill the memory. */

/** The data of each event, in order; ends with the body. `oncomment` is told of comments. */
export async function* events(
  body: ReadableStream<Uint8Array>,
  oncomment?: (comment: string) => void,
): AsyncGenerator<string> {
  // The types of streams disagree on buffers; what a fetch brings is bytes.
  const decoder = new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>;
  const reader = body.pipeThrough(decoder).getReader();
  let left = "";
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      left += value;
      const lines = left.split(/\r\n|\n|\r/);
      left = lines.pop() ?? "";
      if (left.length > EVENT_LIMIT_CHARS) throw new Error("an event without an end");
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line.startsWith(":")) {
          oncomment?.(line.slice(1).trim());
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
