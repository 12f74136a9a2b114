// What the chart draws of the last hour (GET /v1/console/history); what nobody measured is a gap.

/** at_ms, requests/s, tokens/s, first token p50, queue, running; null is unknown. */
export type Point = [
  number,
  number | null,
  number | null,
  number | null,
  number | null,
  number | null,
];

export interface History {
  step_s: number;
  points: Point[];
}

export interface Line {
  /** With its unit. */
  name: string;
  /** Where it stands in a point. */
  at: 1 | 2 | 3 | 4 | 5;
  /** A token of styles/tokens.css. */
  colour: string;
  /** Beside the colour, for who cannot tell colours apart. */
  dashed?: boolean;
}

export interface View {
  id: string;
  name: string;
  lines: Line[];
  /** Its lines share no unit: the second has an axis of its own, on the right. */
  twoAxes?: boolean;
}

export const VIEWS: View[] = [
  {
    id: "flow",
    name: "Tokens and requests",
    lines: [
      { name: "tokens/s", at: 2, colour: "--sun" },
      { name: "requests/s", at: 1, colour: "--good", dashed: true },
    ],
    twoAxes: true,
  },
  {
    id: "wait",
    name: "First token",
    lines: [{ name: "first token, p50, in s", at: 3, colour: "--sun" }],
  },
  {
    id: "load",
    name: "Running and waiting",
    lines: [
      { name: "answers running", at: 5, colour: "--sun" },
      { name: "requests waiting", at: 4, colour: "--bad", dashed: true },
    ],
  },
];

/** A step that is this much late is one that is missing, as while a coordinator is away. */
const LATE_STEPS = 1.75;

/** Points with a point of nothing where one is missing, so that no line bridges the gap. */
export function gapped(history: History): Point[] {
  const found: Point[] = [];
  const late_ms = history.step_s * 1000 * LATE_STEPS;
  for (const point of history.points) {
    const before = found.at(-1);
    if (before && point[0] - before[0] > late_ms) {
      found.push([before[0] + history.step_s * 1000, null, null, null, null, null]);
    }
    found.push(point);
  }
  return found;
}

/** Columns as uPlot takes them: seconds, then each line of the view. */
export function columns(history: History, view: View): (number | null)[][] {
  const points = gapped(history);
  return [
    points.map((point) => point[0] / 1000),
    ...view.lines.map((line) => points.map((point) => point[line.at])),
  ];
}

/** The view in words, for who does not see the lines. */
export function words(history: History, view: View): string {
  const last = history.points.at(-1);
  if (!last) return "Nothing yet: the first point comes within a minute of a start.";
  const told = view.lines.map((line) => {
    const known = history.points.map((point) => point[line.at]).filter((one) => one !== null);
    if (known.length === 0) return `${line.name}: unknown`;
    const now = last[line.at];
    return `${line.name}: ${written(now)} at last, at most ${written(Math.max(...known))}`;
  });
  const text = told.join("; ");
  return `${text[0]?.toUpperCase()}${text.slice(1)}. A point every ${history.step_s} s, from the coordinator (GET /v1/console/history), of the last hour since it started; where a line is broken nobody measured.`;
}

/** Three digits are enough for a chart. */
export function written(value: number | null | undefined): string {
  return value == null ? "unknown" : `${Number(value.toPrecision(3))}`;
}
