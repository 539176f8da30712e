/** Where the time of a request went. */

import { element, fill } from "./elements.js";
import { milliseconds } from "./words.js";

const STAGES = [
  ["decode_us", "Decode"],
  ["queue_us", "Queue"],
  ["inference_us", "Inference"],
  ["postprocess_us", "Postprocess"],
];

/**
 * The stages of a request one after the other; what is left of the time that the browser waited is the way and the rest.
 *
 * @param {Object} timing Of the reply.
 * @param {number} waitedMs What the browser waited.
 * @returns {Array<[string, number]>} Names and milliseconds. Pure.
 */
export function stages(timing, waitedMs) {
  const told = STAGES.map(([field, name]) => [name, timing[field] / 1000]);
  const counted = told.reduce((sum, [, ms]) => sum + ms, 0);
  const server = Math.max(0, timing.total_us / 1000 - counted);
  const way = Math.max(0, waitedMs - Math.max(counted, timing.total_us / 1000));
  return [...told, ["Rest of the server", server], ["Network and browser", way]];
}

/** Draws the bar with its legend. */
export function showTiming(place, timing, waitedMs) {
  const told = stages(timing, waitedMs);
  const whole = told.reduce((sum, [, ms]) => sum + ms, 0) || 1;
  const bar = element(
    "div",
    { class: "bar", "aria-hidden": "true" },
    told.map(([, ms], index) => {
      const part = element("i", { class: `stage-${index}` });
      part.style.width = `${(100 * ms) / whole}%`;
      return part;
    }),
  );
  const legend = element(
    "ul",
    { class: "legend" },
    told.map(([name, ms], index) =>
      element(
        "li",
        {},
        element("i", { class: `swatch stage-${index}`, "aria-hidden": "true" }),
        `${name} `,
        element("b", {}, milliseconds(ms)),
      ),
    ),
  );
  const batch = timing.batch_size > 1 ? `, in a batch of ${timing.batch_size}` : "";
  fill(
    place,
    element("h2", {}, "Timing"),
    element(
      "p",
      {},
      `${milliseconds(timing.total_us / 1000)} in the server${batch}, ${milliseconds(whole)} as the browser saw it.`,
    ),
    bar,
    legend,
  );
}
