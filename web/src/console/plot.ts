// The chart by uPlot, which is fetched when it is first drawn. Colours are those of the page now.

import "uplot/dist/uPlot.min.css";
import type uPlot from "uplot";
import { columns, written } from "./chart";
import type { History, View } from "./chart";

const HEIGHT_PX = 190;
const FONT = '12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';

/** A start is drawn as if it were this long ago, so that the first minute is no wall of noise. */
const SHORTEST_S = 5 * 60;

/** A label a minute at most: two of the same minute would tell nothing. */
const TICKS_S = [1, 2, 5, 10, 15, 30].map((minutes) => 60 * minutes);

/** Where all is 0 a scale needs some height. */
const LEAST_TOP = 1;

export interface Plotted {
  show(history: History): void;
  destroy(): void;
}

/** A chart of this view in this place, as wide as the place is. */
export async function plotted(place: HTMLElement, view: View): Promise<Plotted> {
  const { default: Plot } = await import("uplot");
  const chart = new Plot(options(place.clientWidth, view), [[]], place);
  const watcher = new ResizeObserver(() => {
    chart.setSize({ width: place.clientWidth, height: HEIGHT_PX });
  });
  watcher.observe(place);
  return {
    show: (history) => chart.setData(columns(history, view) as uPlot.AlignedData),
    destroy: () => {
      watcher.disconnect();
      chart.destroy();
    },
  };
}

function options(width: number, view: View): uPlot.Options {
  const colour = resolved();
  const ink = colour("--quiet");
  const axis = { stroke: ink, font: FONT, grid: { stroke: colour("--line"), width: 1 } };
  const scales = view.lines.map((_, at) => (view.twoAxes && at > 0 ? "right" : "left"));
  const names = [...new Set(scales)];
  const top = (_: uPlot, __: number, max: number): uPlot.Range.MinMax => [
    0,
    1.1 * Math.max(LEAST_TOP, max || 0),
  ];
  return {
    width,
    height: HEIGHT_PX,
    cursor: { y: false },
    scales: {
      x: { range: (_, min, max) => [Math.min(min, max - SHORTEST_S), max] },
      ...Object.fromEntries(names.map((name) => [name, { range: top }])),
    },
    series: [
      { label: "time", value: (_, at) => (at == null ? "—" : clock(at, { second: "2-digit" })) },
      ...view.lines.map((line, at) => ({
        label: line.name,
        scale: scales[at] ?? "left",
        stroke: colour(line.colour),
        width: 2,
        ...(line.dashed ? { dash: [6, 4] } : {}),
        points: { size: 4 },
        value: (_: uPlot, value: number | null) => (value == null ? "—" : written(value)),
      })),
    ],
    axes: [
      { ...axis, size: 32, incrs: TICKS_S, values: (_, splits) => splits.map((at) => clock(at)) },
      ...names.map((scale) => ({
        ...axis,
        scale,
        size: 46,
        ...(scale === "right" ? { side: 1 as const, grid: { show: false } } : {}),
        values: (_: uPlot, splits: number[]) => splits.map(written),
      })),
    ],
  };
}

function clock(at_s: number, more: Intl.DateTimeFormatOptions = {}): string {
  const form = { hour: "2-digit", minute: "2-digit", hour12: false, ...more } as const;
  return new Date(at_s * 1000).toLocaleTimeString([], form);
}

/** A canvas knows no light-dark(): a probe's computed colour is what the page shows now. */
function resolved(): (token: string) => string {
  return (token) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
}
