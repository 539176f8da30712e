/** Small charts: lines over time, and bars. */

import { element } from "./elements.js";

const [WIDTH, HEIGHT] = [360, 150];
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 6, 8, 20];

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat(Infinity));
  return made;
}

/** A number with few digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10_000) return `${Math.round(value / 1000)}k`;
  return String(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
}

/** The least of 1, 2, 5, 10, ... that is no less. Pure. */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((most) => most >= value * 0.999);
}

function axes(most, last) {
  return [0, 0.5, 1]
    .map((share) => {
      const y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);
      return [
        svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "grid" }),
        svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(most * share)),
      ];
    })
    .concat(last);
}

function figure(title, told, drawing, legend) {
  return element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, element("h2", {}, title), legend),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${told}` }, drawing),
  );
}

/**
 * Lines over time.
 *
 * @param {string} title With the unit.
 * @param {number} seconds How far back it goes.
 * @param {number} now In milliseconds.
 * @param {Array<{name: string, points: Array<[number, number|null]>}>} lines Times in milliseconds and values; null is a gap.
 */
export function lines(title, seconds, now, lines) {
  const most = ceiling(Math.max(...lines.flatMap(({ points }) => points.map(([, value]) => value ?? 0)), 1));
  const x = (at) => LEFT + (WIDTH - LEFT - RIGHT) * Math.max(0, 1 - (now - at) / 1000 / seconds);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
  const paths = lines.map(({ points }, index) => {
    let draws = false;
    const steps = points
      .filter(([at]) => now - at <= seconds * 1000)
      .map(([at, value]) => {
        const step = value === null ? "" : `${draws ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
        draws = value !== null;
        return step;
      });
    return svg("path", { d: steps.join(""), class: `stroke-${index}` });
  });
  const ends = [
    svg("text", { x: LEFT, y: HEIGHT - 4 }, `${Math.round(seconds / 60)} min ago`),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
  ];
  const latest = lines.map(({ name, points }) => [name, short(points.at(-1)?.[1])]);
  const legend = element(
    "ul",
    { class: "legend" },
    latest.map(([name, value], index) =>
      element(
        "li",
        {},
        element("i", { class: `swatch fill-${index}`, "aria-hidden": "true" }),
        `${name} `,
        element("b", {}, value),
      ),
    ),
  );
  return figure(
    title,
    latest.map(([name, value]) => `${name} ${value}`).join(", "),
    [axes(most, ends).flat(), paths],
    legend,
  );
}

/**
 * Bars.
 *
 * @param {string} title
 * @param {Array<[string, number]>} bars Names and values.
 */
export function bars(title, bars) {
  const all = bars.reduce((total, [, value]) => total + value, 0) || 1;
  const most = ceiling(Math.max(...bars.map(([, value]) => (100 * value) / all), 1));
  const step = (WIDTH - LEFT - RIGHT) / Math.max(1, bars.length);
  const drawn = bars.map(([name, value], index) => {
    const height = ((HEIGHT - TOP - BOTTOM) * ((100 * value) / all)) / most;
    return [
      svg("rect", { x: LEFT + index * step + step * 0.15, y: HEIGHT - BOTTOM - height, width: step * 0.7, height }),
      svg("text", { x: LEFT + (index + 0.5) * step, y: HEIGHT - 4, "text-anchor": "middle" }, name),
    ];
  });
  const told = bars
    .filter(([, value]) => value)
    .map(([name, value]) => `${name}: ${Math.round((100 * value) / all)} percent`);
  return figure(title, told.join(", ") || "nothing yet", [axes(most, []).flat(), drawn.flat()]);
}
