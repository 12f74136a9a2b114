// Markdown cut into blocks, so that a growing answer renders its last block alone.

export type Block =
  { kind: "text"; text: string } | { kind: "code"; language: string; text: string };

interface Line {
  text: string;
  /** Where the next line begins. */
  next: number;
}

const MATHS_LIMIT_CHARS = 4_000;
/** A formula that is longer was never closed, and must not swallow the rest of the answer. */

const MARK_LIMIT_CHARS = 14;
/** Three spaces, nine digits, a dot and a space: no mark of a list is longer. */

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$/;
const LIST = /^ {0,3}([-*+]|\d{1,9}[.)])(\s|$)/;
const INDENTED = /^(\t| {2,})\S/;

/** The blocks of a text that only ever grows; what is finished is never looked at again. */
export class Blocks {
  finished: Block[] = [];
  open: Block | null = null;
  #from = 0;
  #taken = 0;

  /** Take the whole text so far; `ended` when nothing more will come. */
  update(text: string, ended = false): void {
    // Another text than the one before, as when an answer was begun again.
    if (text.length < this.#taken) {
      this.finished = [];
      this.#from = 0;
    }
    this.#taken = text.length;
    for (;;) {
      const found = firstBlock(text, this.#from, ended);
      if (found.next === null) {
        this.open = found.block;
        break;
      }
      if (found.block) this.finished.push(found.block);
      this.#from = found.next;
    }
    if (ended && this.open) {
      this.finished.push(this.open);
      this.open = null;
      this.#from = text.length;
    }
  }
}

/** All blocks of a text that is whole. */
export function blocksOf(text: string): Block[] {
  const blocks = new Blocks();
  blocks.update(text, true);
  return blocks.finished;
}

interface Found {
  block: Block | null;
  /** Where the block after it begins; null while it may still grow. */
  next: number | null;
}

function firstBlock(text: string, from: number, ended: boolean): Found {
  let at = from;
  for (;;) {
    const line = lineAt(text, at);
    if (line === null) return { block: null, next: null };
    if (line.text.trim() !== "") break;
    if (line.next === at) return { block: null, next: null };
    at = line.next;
  }
  const first = lineAt(text, at) as Line;
  // An unfinished first line may be a fence or a list: that is known when it has ended.
  const isWhole = first.next <= text.length && text[first.next - 1] === "\n";
  const fence = FENCE.exec(first.text);
  if (fence && !isWhole && !ended) {
    return { block: { kind: "code", language: "", text: "" }, next: null };
  }
  if (fence) return codeBlock(text, first, fence);
  return textBlock(text, at, first);
}

function codeBlock(text: string, first: Line, fence: RegExpExecArray): Found {
  const mark = fence[2] as string;
  const closing = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}[ \\t]*$`);
  const language = fence[3] ?? "";
  let at = first.next;
  for (;;) {
    const line = lineAt(text, at);
    if (line === null || line.next === at) {
      return { block: { kind: "code", language, text: text.slice(first.next) }, next: null };
    }
    if (closing.test(line.text) && text[line.next - 1] === "\n") {
      const inside = text.slice(first.next, at).replace(/\n$/, "");
      return { block: { kind: "code", language, text: inside }, next: line.next };
    }
    if (closing.test(line.text) && line.next === text.length) {
      // The last line so far: it closes, unless more backticks come.
      const inside = text.slice(first.next, at).replace(/\n$/, "");
      return { block: { kind: "code", language, text: inside }, next: null };
    }
    at = line.next;
  }
}

/** A paragraph, a table, a heading, or a list with all that belongs to it. */
function textBlock(text: string, start: number, first: Line): Found {
  const isList = LIST.test(first.text);
  const maths = { open: false };
  let at = start;
  let fence: string | null = null;
  for (;;) {
    const line = lineAt(text, at);
    if (line === null || line.next === at) {
      return { block: { kind: "text", text: text.slice(start) }, next: null };
    }
    const mark = /^\s*(`{3,}|~{3,})/.exec(line.text)?.[1];
    if (fence !== null) {
      if (mark?.startsWith(fence)) fence = null;
    } else if (mark && isList && /^\s/.test(line.text)) {
      fence = mark;
    } else if (mark && at > start && FENCE.test(line.text) && text[line.next - 1] === "\n") {
      return { block: { kind: "text", text: text.slice(start, at) }, next: at };
    } else if (line.text.trim() === "" && !(maths.open && at - start < MATHS_LIMIT_CHARS)) {
      const follows = lineAfterBlank(text, line.next);
      // What follows is not here yet: a list may go on after its blank line.
      const isKnown = follows !== null && (!isList || isReadable(text, follows));
      if (!isKnown) return { block: { kind: "text", text: text.slice(start) }, next: null };
      const belongs =
        isList &&
        (isOrdered(follows.text) === isOrdered(first.text) || INDENTED.test(follows.text));
      if (!belongs) return { block: { kind: "text", text: text.slice(start, at) }, next: at };
    } else {
      countMaths(line.text, maths);
    }
    at = line.next;
  }
}

/** Whether enough of a line is there to see whether a list goes on in it. */
function isReadable(text: string, line: Line): boolean {
  return text[line.next - 1] === "\n" || line.text.length >= MARK_LIMIT_CHARS;
}

/** Whether it is an item of a numbered list; null for no item at all. */
function isOrdered(line: string): boolean | null {
  const mark = LIST.exec(line)?.[1];
  return mark === undefined ? null : mark.length > 1;
}

// Formulas on lines of their own may have blank ones between; a $$ inside a sentence opens none.
function countMaths(line: string, maths: { open: boolean }): void {
  const mark = line.trim();
  if (mark === "$$") maths.open = !maths.open;
  else if (mark === "\\[") maths.open = true;
  else if (mark === "\\]") maths.open = false;
}

function lineAfterBlank(text: string, from: number): Line | null {
  let at = from;
  for (;;) {
    const line = lineAt(text, at);
    if (line === null || line.next === at) return null;
    if (line.text.trim() !== "") return line;
    at = line.next;
  }
}

function lineAt(text: string, at: number): Line | null {
  if (at >= text.length) return null;
  const end = text.indexOf("\n", at);
  if (end < 0) return { text: text.slice(at), next: text.length };
  return { text: text.slice(at, end), next: end + 1 };
}
