// @vitest-environment jsdom
import { describe, expect, it } from "vitest";
import { cleanCode, cleanMath, rendered } from "./markdown";

function dom(markdown: string): HTMLElement {
  const box = document.createElement("div");
  box.innerHTML = rendered(markdown);
  return box;
}

const ATTACKS = [
  "<script>alert(1)</script>",
  '<img src=x onerror="alert(1)">',
  "<svg onload=alert(1)><animate onbegin=alert(1)></svg>",
  '<a href="javascript:alert(1)">x</a>',
  "[x](javascript:alert(1))",
  "[x](JaVaScRiPt:alert(1))",
  "[x](java\nscript:alert(1))",
  "[x](&#106;avascript:alert(1))",
  "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
  "[x](vbscript:msgbox(1))",
  "![x](javascript:alert(1))",
  '![x" onerror="alert(1)](http://evil.example/a.png)',
  '[x](http://a.example/" onmouseover="alert(1))',
  '<iframe src="http://evil.example"></iframe>',
  '<math><mtext></form><form><mglyph><style></math><img src onerror="alert(1)">',
  '<style>@import "http://evil.example/a.css";</style>',
  '<p style="background:url(http://evil.example/a.png)">x</p>',
  '<form action="http://evil.example"><input name=a><button>go</button></form>',
  '<base href="http://evil.example/">',
  '<meta http-equiv="refresh" content="0;url=http://evil.example">',
  '```"><script>alert(1)</script>\ncode\n```',
  "`<script>alert(1)</script>`",
  '$<img src=x onerror="alert(1)">$',
  '| a |\n|---|\n| <img src=x onerror="alert(1)"> |',
  "<details open ontoggle=alert(1)>x</details>",
  '<noscript><p title="</noscript><img src=x onerror=alert(1)>"></noscript>',
  '<http://evil.example/"onmouseover=alert(1)>',
];

describe("markdown", () => {
  it.each(ATTACKS)("makes nothing that runs or loads of %j", (attack) => {
    const box = dom(`before\n\n${attack}\n\nafter`);
    const risky =
      "script,style,img,svg,math,iframe,object,embed,form,input,button,base,meta,link,video,audio";
    expect(box.querySelectorAll(risky).length).toBe(0);
    for (const element of box.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^src|^id$|^name$|^action/i);
        if (name === "href") expect(value).toMatch(/^(https?:|mailto:)/);
      }
    }
  });

  it("shows the HTML that a model wrote as text", () => {
    expect(dom("<b>bold</b> and <script>alert(1)</script>").textContent).toContain(
      "<b>bold</b> and <script>alert(1)</script>",
    );
  });

  it("opens links elsewhere, without telling or handing over this page", () => {
    const link = dom("[x](https://a.example/)").querySelector("a");
    expect(link?.getAttribute("rel")).toBe("noopener noreferrer nofollow");
    expect(link?.getAttribute("target")).toBe("_blank");
  });

  it("takes no address of this very server as a link", () => {
    for (const address of ["/v1/session", "//evil.example", "account", "#x", "?a=1"]) {
      expect(dom(`[x](${address})`).querySelector("a")?.getAttribute("href") ?? null).toBeNull();
    }
  });

  it("makes a picture a link that says what it is", () => {
    const box = dom("![a cat](https://a.example/cat.png)");
    expect(box.querySelector("img")).toBeNull();
    expect(box.querySelector("a")?.textContent).toBe("image: a cat");
  });

  it("draws tables, lists, code and emphasis", () => {
    const box = dom("| a | b |\n|---|--:|\n| 1 | 2 |\n\n- x\n- [x] y\n\n**z** `q` ~~r~~");
    expect(box.querySelectorAll("td").length).toBe(2);
    expect(box.querySelectorAll("li").length).toBe(2);
    expect(box.querySelector(".task.done")?.textContent).toBe("☑");
    expect(box.querySelector("strong")?.textContent).toBe("z");
  });

  it("finds formulas, and takes money for none", () => {
    expect(dom("so $a^2 + b^2$ holds").querySelector("code.math")?.textContent).toBe("a^2 + b^2");
    expect(dom("\\(x\\) and \\[y\\]").querySelector("code.math")?.textContent).toBe("x");
    expect(dom("$$\n\\frac{1}{2}\n$$").querySelector("code.math.block")?.textContent).toBe(
      "\\frac{1}{2}",
    );
    for (const prose of ["it costs $5 and $6", "$ 5 $", "US$20 or US$30", "$1,000 to $2,000"]) {
      expect(dom(prose).querySelector(".math")).toBeNull();
      expect(dom(prose).textContent?.trim()).toBe(prose);
    }
  });

  it("lets only spans out of the highlighter and MathML out of the math renderer", () => {
    const code = cleanCode('<span class="hljs-keyword">a</span><img src=x onerror=alert(1)>');
    expect(code).toBe('<span class="hljs-keyword">a</span>');
    expect(cleanCode('<span class="evil" style="color:red">a</span>')).toBe("<span>a</span>");
    const box = document.createElement("div");
    box.append(
      cleanMath('<math style="x"><mi href="javascript:alert(1)">x</mi><script>1</script></math>'),
    );
    expect(box.innerHTML).not.toMatch(/script|style|href/);
  });
});
