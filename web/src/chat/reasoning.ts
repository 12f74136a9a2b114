// Models that think aloud write <think>…</think> before their answer; it is shown folded.

const OPEN = "<think>";
const CLOSE = "</think>";

export interface Parts {
  /** Null where the model did not think aloud. */
  reasoning: string | null;
  answer: string;
  /** Whether the thinking goes on still. */
  thinking: boolean;
}

/** An answer apart from the reasoning at its beginning; a tag in the middle is just text. */
export function parts(text: string): Parts {
  const start = text.trimStart();
  if (!start.startsWith(OPEN)) {
    // A beginning of the tag alone is not shown yet: it would flash by as text.
    const partly = start !== "" && OPEN.startsWith(start);
    return { reasoning: null, answer: partly ? "" : text, thinking: partly };
  }
  const inside = start.slice(OPEN.length);
  const end = inside.indexOf(CLOSE);
  if (end < 0) return { reasoning: inside.trim(), answer: "", thinking: true };
  return {
    reasoning: inside.slice(0, end).trim(),
    answer: inside.slice(end + CLOSE.length).replace(/^\s+/, ""),
    thinking: false,
  };
}

/** Without the reasoning: what goes back to the model as its own words. */
export function withoutReasoning(text: string): string {
  const { reasoning, answer, thinking } = parts(text);
  return reasoning === null || thinking ? text : answer;
}
