/** The view of what the server does now, from what it counts for Prometheus. */

import { bars, lines, short } from "./chart.js";
import { element, fill, table, trouble } from "./elements.js";
import { counted, levels, parse, reading, sum, thinned, versions } from "./exposition.js";
import { ask, silence } from "./server.js";
import { milliseconds, percent } from "./words.js";

export const title = "Live";

const EVERY_MS = 2000;
const LONGEST_MS = 10_000;
const SHOWN_SECONDS = 300;
// Rates and percentiles are of so long: shorter ones jump.
const WINDOW_MS = 10_000;
const THINNED_MS = 20_000;
// Of the process that serves the models, and of those before it.
const RESIDENT = ["process_resident_memory_bytes", "retinue_worker_resident_memory_bytes"];
const MIB = 1024 * 1024;
const UNKNOWN = { answered: null, others: null, requests: null, p50: null, p95: null, p99: null };
const PARTS = ["Weights", "Arena", "Buffers"];

// Looks and readings of the last minutes, also while other views are shown.
let looks = [];
const readings = [];

/** Shows the view; returns what closes it. */
export function open(place) {
  const view = new Live(place);
  view.look();
  return () => view.close();
}

async function metrics(signal) {
  const response = await ask("/metrics", { headers: { accept: "text/plain" }, signal });
  return response.text().catch(() => {
    throw silence();
  });
}

class Live {
  constructor(place) {
    this.left = false;
    this.paused = false;
    this.asking = new AbortController();
    this.told = "";
    this.pause = element("button", { type: "button", "aria-pressed": "false", click: () => this.toggle() }, "Pause");
    this.trouble = element("div", {});
    this.tiles = element("dl", { class: "tiles" });
    this.charts = element("div", { class: "charts" });
    this.versions = element("section");
    this.memory = element("section");
    fill(
      place,
      element("div", { class: "heading" }, element("h1", {}, "Live"), this.pause),
      this.trouble,
      this.tiles,
      this.charts,
      this.versions,
      this.memory,
    );
  }

  toggle() {
    this.paused = !this.paused;
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.look();
  }

  async look() {
    clearTimeout(this.timer);
    // One at a time.
    this.asking.abort();
    if (this.left || this.paused) return;
    this.asking = new AbortController();
    const { signal } = this.asking;
    // Nobody sees it.
    if (!document.hidden) {
      try {
        const text = await metrics(AbortSignal.any([signal, AbortSignal.timeout(LONGEST_MS)]));
        if (signal.aborted) return;
        this.take({ at: Date.now(), samples: parse(text) });
        this.tell();
      } catch (error) {
        if (signal.aborted) return;
        this.tell(error);
        if (error.status === 401 || error.status === 403) return;
      }
    }
    this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  /** Shows what went wrong, or that nothing does; what stands there already stays, and the focus in it. */
  tell(error) {
    const told = error ? `${error.reason ?? ""} ${error.message}` : "";
    if (told === this.told) return;
    this.told = told;
    fill(this.trouble, error && trouble(error, () => this.look()));
  }

  take(look) {
    // While nobody looked, nothing is known of when it was.
    if (looks.length && look.at - looks.at(-1).at > 3 * EVERY_MS) {
      looks = [];
      readings.push({ at: look.at - EVERY_MS, ...UNKNOWN, queue: null, inFlight: null });
    }
    const before = looks.findLast((one) => look.at - one.at >= WINDOW_MS) ?? looks[0];
    // One of the window's beginning is of use besides those in it.
    looks = thinned([...looks, look], look.at - WINDOW_MS - 2 * EVERY_MS, THINNED_MS);
    while (look.at - looks[0].at > SHOWN_SECONDS * 1000) looks.shift();
    // Rates need two looks.
    readings.push(before ? reading(before, look) : { at: look.at, ...UNKNOWN, ...levels(look.samples) });
    while (readings.length && look.at - readings[0].at > SHOWN_SECONDS * 1000) readings.shift();
    this.show(before ?? look, look);
  }

  show(before, look) {
    const now = readings.at(-1);
    const seconds = (value) => (value === null ? "–" : milliseconds(value * 1000));
    const resident = RESIDENT.reduce((all, name) => all + sum(look.samples, name), 0);
    fill(
      this.tiles,
      [
        ["Images", short(now.answered), "/s"],
        ["Calls", short(now.requests), "/s"],
        ["Median", seconds(now.p50), ""],
        ["99th percentile", seconds(now.p99), ""],
        ["In flight", short(now.inFlight), "calls"],
        ["Queue", short(now.queue), "images"],
        ["Memory", short(resident / MIB), "MiB"],
      ].map(([name, value, unit]) =>
        element(
          "div",
          { class: "tile" },
          element("dt", {}, name),
          element("dd", {}, value, " ", element("small", {}, unit)),
        ),
      ),
    );

    const line = (name, field, factor = 1) => ({
      name,
      points: readings.map((one) => [one.at, one[field] === null ? null : one[field] * factor]),
    });
    const buckets = counted(looks[0].samples, look.samples, "retinue_batch_size").map(([bound, count]) => [
      bound === Infinity ? "more" : String(bound),
      count,
    ]);
    fill(
      this.charts,
      lines("Images a second", SHOWN_SECONDS, look.at, [
        line("answered", "answered"),
        line("failed, refused, cancelled", "others"),
      ]),
      lines("Latency of calls, ms", SHOWN_SECONDS, look.at, [
        line("median", "p50", 1000),
        line("95 %", "p95", 1000),
        line("99 %", "p99", 1000),
      ]),
      lines("Waiting and in flight", SHOWN_SECONDS, look.at, [
        line("images in the queue", "queue"),
        line("calls in flight", "inFlight"),
      ]),
      bars("Batch sizes up to, % of batches", buckets),
    );
    const told = versions(before, look);
    // The share of traffic is that of all that is shown: few calls say little.
    const shares = new Map(versions(looks[0], look).map((one) => [`${one.model}/${one.version}`, one.share]));
    this.showVersions(
      told.map((one) => ({ ...one, share: shares.get(`${one.model}/${one.version}`) })),
      seconds,
    );
    this.showMemory(told);
  }

  showVersions(told, seconds) {
    const heads = [
      "Model",
      "#Version",
      "Task",
      "#Images/s",
      "#Share of calls",
      "#Median",
      "#99 %",
      "#Mean batch",
      "#Queue",
    ];
    const made = table(
      "Versions and their traffic",
      heads,
      told.map((one) => [
        element("a", { href: `#/models/${encodeURIComponent(one.model)}/${one.version}` }, one.model),
        one.version,
        one.task,
        short(one.images),
        one.share === null || one.share === undefined ? "–" : percent(one.share),
        seconds(one.p50),
        seconds(one.p99),
        short(one.batch),
        short(one.queue),
      ]),
    );
    this.keep(this.versions, "Versions and their traffic", made);
  }

  showMemory(told) {
    const most = Math.max(...told.map(({ parts }) => parts.reduce((all, one) => all + one, 0)), 1);
    const heads = ["Model", "#Version", ...PARTS.map((part) => `#${part}, MiB`), "#Together", "Of the largest"];
    const rows = told.map(({ model, version, parts }) => {
      const bar = element(
        "div",
        { class: "bar", "aria-hidden": "true" },
        parts.map((bytes, index) => {
          const part = element("i", { class: `fill-${index}` });
          part.style.width = `${(100 * bytes) / most}%`;
          return part;
        }),
      );
      const all = parts.reduce((total, one) => total + one, 0);
      return [model, version, ...parts.map((bytes) => (bytes / MIB).toFixed(1)), (all / MIB).toFixed(1), bar];
    });
    this.keep(this.memory, "Memory by model", table("Memory by model", heads, rows));
  }

  /** Puts a table where it was before, so that who scrolls it, or has the focus there, stays. */
  keep(section, heading, made) {
    const region = section.querySelector(".scroll");
    const focused = section.contains(document.activeElement) && document.activeElement.getAttribute("href");
    if (region) region.replaceChildren(...made.children);
    else fill(section, element("h2", {}, heading), made);
    if (focused) section.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  close() {
    this.left = true;
    this.asking.abort();
    clearTimeout(this.timer);
  }
}
