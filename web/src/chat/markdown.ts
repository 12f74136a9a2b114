// The one place where text of a model becomes HTML. Two walls, one behind the other: marked is
// told to write none of the HTML it meets, and DOMPurify lets only what is listed here through.
import createDOMPurify from "dompurify";
import { Marked, type Tokens } from "marked";

/** HTML that went through this file; nothing else may be drawn as HTML. */
export type SafeHtml = string & { readonly safe: unique symbol };

const TAGS = [
  ...["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr"],
  ...["li", "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
];
const ATTRIBUTES = ["href", "title", "start", "class", "align", "rel", "target", "data-lang"];
const CLASSES = /^(math|math block|task( done)?|hljs-[a-z_ -]+)$/;
const LINK = /^(https?:|mailto:)/i;
const MATHML_TAGS = [
  ...["math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot"],
  ...["msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd"],
  ...["mpadded", "mphantom", "menclose", "mstyle", "mmultiscripts", "mprescripts", "semantics"],
];
const MATHML_ATTRIBUTES = [
  ...["display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form"],
  ...["separator", "accent", "accentunder", "lspace", "rspace", "width", "height", "depth"],
  ...["linethickness", "columnalign", "rowspacing", "columnspacing", "minsize", "maxsize"],
  ...["largeop", "movablelimits", "symmetric", "columnspan", "rowspan", "voffset", "notation"],
];

const purify = createDOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  const given = node.getAttribute("class");
  if (given !== null && !CLASSES.test(given)) node.removeAttribute("class");
  // What may scroll sideways must be reached by keys.
  if (["TABLE", "PRE"].includes(node.nodeName)) node.setAttribute("tabindex", "0");
  if (node.nodeName !== "A") return;
  const address = node.getAttribute("href") ?? "";
  // An address without a scheme would be one of this very server.
  if (!LINK.test(address)) {
    node.removeAttribute("href");
    return;
  }
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** Finished or growing markdown as HTML. */
export function rendered(markdown: string): SafeHtml {
  return clean(marked.parse(markdown) as string);
}

/** What a highlighter made of code: spans with classes and text, nothing else. */
export function cleanCode(html: string): SafeHtml {
  return purify.sanitize(html, {
    ALLOWED_TAGS: ["span"],
    ALLOWED_ATTR: ["class"],
  }) as unknown as SafeHtml;
}

/** MathML that temml made, as nodes; without styles, which the page's policy would refuse. */
export function cleanMath(mathml: string): DocumentFragment {
  return purify.sanitize(mathml, {
    ALLOWED_TAGS: MATHML_TAGS,
    ALLOWED_ATTR: MATHML_ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}

function clean(html: string): SafeHtml {
  return purify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  }) as unknown as SafeHtml;
}

export function escaped(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

// --- math -------------------------------------------------------------------------------------

interface MathToken {
  type: string;
  raw: string;
  tex: string;
  display: boolean;
}

const BLOCK_MATH = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
// Money is no formula: "$5 and $6" has a space before the second sign, or a digit after it.
const INLINE_MATH =
  /^(?:\$\$([^$\n]+?)\$\$|\\\(([^\n]+?)\\\)|\$((?:[^$\n\\\s]|\\.)(?:(?:[^$\n\\]|\\.)*?(?:[^$\n\\\s]|\\.))?)\$(?!\d))/;

function mathOf(found: RegExpExecArray, type: string): MathToken {
  const display = type === "blockMath" || found[1] !== undefined;
  return {
    type,
    raw: found[0],
    tex: (found[1] ?? found[2] ?? found[3] ?? "").trim(),
    display,
  };
}

/** The source stands there until the renderer is loaded, and for good where it cannot read it. */
function mathHtml(token: Tokens.Generic): string {
  const { tex, display } = token as unknown as MathToken;
  return `<code class="${display ? "math block" : "math"}">${escaped(tex)}</code>`;
}

const marked = new Marked({
  gfm: true,
  // In a chat a new line is meant, as in a poem or an address.
  breaks: true,
  extensions: [
    {
      name: "blockMath",
      level: "block",
      start: (text) => /\$\$|\\\[/.exec(text)?.index,
      tokenizer(text) {
        const found = BLOCK_MATH.exec(text);
        return found ? mathOf(found, "blockMath") : undefined;
      },
      renderer: (token) => `<p>${mathHtml(token)}</p>`,
    },
    {
      name: "inlineMath",
      level: "inline",
      start: (text) => /\$|\\\(/.exec(text)?.index,
      tokenizer(text) {
        const found = INLINE_MATH.exec(text);
        return found ? mathOf(found, "inlineMath") : undefined;
      },
      renderer: mathHtml,
    },
  ],
  renderer: {
    // HTML of a model is text: a person sees what it wrote.
    html({ text }) {
      return escaped(text);
    },
    // A picture from elsewhere would tell its server who reads this.
    image({ href, text }) {
      const label = `image: ${text || href}`;
      return `<a href="${escaped(href)}">${escaped(label)}</a>`;
    },
    checkbox({ checked }) {
      return `<span class="task${checked ? " done" : ""}">${checked ? "☑" : "☐"}</span> `;
    },
    code({ text, lang }) {
      const language = (lang ?? "").split(/\s/)[0] ?? "";
      return `<pre data-lang="${escaped(language)}"><code>${escaped(text)}</code></pre>`;
    },
  },
});
