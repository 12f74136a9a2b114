"""The chat page in a real Chromium: what it loads, when it can be used, what a long answer costs.

The answer is streamed by the real API from an echo node that says again what it was asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rows import Row, median, spread
from bench.rows_relay import ROOMY
from parhelion.testing.processes import UNTIMED, Running, start_echo, start_pool

BROWSER = Path(__file__).parents[1] / "tests/browser"
SCRIPT = Path(__file__).with_name("pages.mjs")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

SCRIPT_TARGET_KB = 60
READY_TARGET_S = 1.0
ANSWER_TARGET_S = 1.5
ANSWER_TOKENS = 4000
MAX_TOKENS = 4060
"""With the prompt, which is as long as the answer, just within a context of 8,192 tokens."""

TEMPLATE_TOKENS = 40
"""More than what the packaged model's template adds, so that the answer is long enough."""

PACE_TOKENS_PER_S = 200.0
"""Faster than anybody reads; at a slower pace the same answer is drawn in more frames."""

ROUNDS = 7
QUICK_ROUNDS = 3
WAIT_S = 400.0

SECTION = """## Part {at}

Light of **part {at}** passes through ice and is bent by *twenty-two degrees*; see `halo({at})`.

- first, the crystals fall slowly and turn their flat faces down
- then the sun stands low, and two bright spots stand beside it

```python
def halo(order):
    angles = [22.0 * step for step in range(order)]
    return sum(angles) / max(1, len(angles))  # in degrees
```

| side | degrees |
|------|--------:|
| left | {at}.5 |

"""

SECTION_TOKENS = 250
"""More than one has; what is left of the length is made of shorter stuff."""

FILLER = "And so the light goes on, a little further each time.\n\n"


def measure(folder: Path, quick: bool) -> list[Row]:
    """The rows of the chat page, or one that says what is missing."""
    node = shutil.which("node")
    if node is None or not (BROWSER / "node_modules").is_dir() or not Path(CHROMIUM).exists():
        missing = "no Node.js or Chromium, or `make test-all` has not installed the browser tests"
        return [Row("chat page", "not measured", "-", None, missing)]
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env={**ROOMY, **UNTIMED})
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")
        echo = start_echo(
            folder / "node", where, "--parrot", tokens_per_s=PACE_TOKENS_PER_S, slots=4
        )
        stack.callback(echo.kill)
        before = os.getloadavg()[0]
        found = _browsed(
            node,
            {
                "web": pool.ready["web"],
                "key": pool.key,
                "node": echo.ready["peer"],
                "text": _text(pool),
                "max_tokens": MAX_TOKENS,
                "rounds": QUICK_ROUNDS if quick else ROUNDS,
            },
        )
        beside = (
            f"Chromium {found['version']}, coordinator and node on the same cores; "
            f"load {before:.1f} before"
        )
    return [_loaded(found), _interactive(found, beside), _drawn(found, beside)]


def _browsed(node: str, ask: dict[str, Any]) -> dict[str, Any]:
    run = subprocess.run(
        [node, "--input-type=module", "-"],
        input=SCRIPT.read_text(),
        cwd=BROWSER,
        env={**os.environ, "PAGES": json.dumps(ask), "CHROMIUM": CHROMIUM},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    if run.returncode != 0:
        raise RuntimeError(run.stderr[-2000:])
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _text(pool: Running) -> str:
    """Markdown of headings, lists, code and tables, of a little more than so many tokens."""
    text, tokens, at = "", 0, 0
    while tokens < ANSWER_TOKENS:
        at += 1
        text += SECTION.format(at=at) if ANSWER_TOKENS - tokens > SECTION_TOKENS else FILLER
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
        tokens = pool.call("POST", "/v1/quote", body)[2]["prompt_tokens"] - TEMPLATE_TOKENS
    return text


def _loaded(found: dict[str, Any]) -> Row:
    files = sorted(found["files"], key=lambda one: -one["gzip"])
    total_kb = sum(one["gzip"] for one in files) / 1000
    return Row(
        "JavaScript of the chat's first load, gzip",
        f"{total_kb:.1f} kB",
        f"<= {SCRIPT_TARGET_KB} kB",
        total_kb <= SCRIPT_TARGET_KB,
        "; ".join(f"{one['name'].split('-')[0]} {one['gzip'] / 1000:.1f}" for one in files),
    )


def _interactive(found: dict[str, Any], beside: str) -> Row:
    ready_s = [ms / 1000 for ms in found["ready_ms"]]
    writable_s = [ms / 1000 for ms in found["writable_ms"]]
    return Row(
        "chat page usable, from the start of the navigation",
        f"{median(ready_s):.2f} s",
        f"<= {READY_TARGET_S:g} s",
        median(ready_s) <= READY_TARGET_S,
        f"the model is known and can be asked: {spread(ready_s)}; a message can be written: "
        f"{spread(writable_s)}; an empty cache each time; {beside}",
    )


def _drawn(found: dict[str, Any], beside: str) -> Row:
    (answer,) = found["answers"]
    return Row(
        f"script time of an answer of {answer['tokens']:,} tokens",
        f"{answer['script_s']:.2f} s",
        f"<= {ANSWER_TARGET_S:g} s",
        answer["script_s"] <= ANSWER_TARGET_S and answer["tokens"] >= ANSWER_TOKENS,
        f"markdown with code and tables, {answer['took_s']:.0f} s at {PACE_TOKENS_PER_S:.0f} "
        f"tokens/s; beside it layout {answer['layout_s']:.2f}, styles {answer['style_s']:.2f}, "
        f"all tasks of the page {answer['task_s']:.2f} s; {beside}",
    )
