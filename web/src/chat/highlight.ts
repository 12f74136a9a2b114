// Colours for finished code; loaded when the first block of code is there.
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { cleanCode, type SafeHtml } from "./markdown";

const LIMIT_CHARS = 50_000;
/** Beyond, colouring takes longer than a person waits, and nobody reads so much code in a chat. */

const LANGUAGES = {
  ...{ bash, c, cpp, css, diff, go, java, javascript, json, markdown, python, rust, sql },
  ...{ typescript, xml, yaml },
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

/** Coloured code; null where the language is not known, and it stays as it is. */
export function highlighted(code: string, language: string): SafeHtml | null {
  const name = language.toLowerCase();
  if (code.length > LIMIT_CHARS || !hljs.getLanguage(name)) return null;
  return cleanCode(hljs.highlight(code, { language: name, ignoreIllegals: true }).value);
}
