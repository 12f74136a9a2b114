// TeX to MathML, which browsers draw themselves; loaded when the first formula is there.
import temml from "temml";
import { cleanMath } from "./markdown";

const LIMIT_CHARS = 5_000;
/** No formula that a person reads is longer. */
const EXPAND_LIMIT = 100;
/** Macros that grow without end are cut here. */

/** Draw each formula of a finished block in place; what cannot be read stays as its source. */
export function drawFormulas(within: HTMLElement): void {
  for (const place of within.querySelectorAll<HTMLElement>("code.math")) {
    const tex = place.textContent ?? "";
    if (tex.length > LIMIT_CHARS) continue;
    try {
      const mathml = temml.renderToString(tex, {
        displayMode: place.classList.contains("block"),
        throwOnError: true,
        trust: false,
        maxExpand: EXPAND_LIMIT,
        annotate: false,
      });
      // Only looks, which the page's policy refuses and would report; cleaned of all else below.
      const drawn = cleanMath(mathml.replace(/ style="[^"]*"/g, ""));
      if (!drawn.firstElementChild) continue;
      drawn.firstElementChild.setAttribute("aria-label", tex);
      place.replaceWith(drawn);
    } catch {
      // No TeX that temml knows: the person reads the source, as the model wrote it.
      place.title = "this formula could not be read";
    }
  }
}
