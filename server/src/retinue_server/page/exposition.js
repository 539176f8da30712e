/** What /metrics prints, read, and what happened between two looks at it. Pure. */

// What is read of it; with many models the rest is much, and is kept for minutes.
const READ = new Set([
  "process_resident_memory_bytes",
  "retinue_batch_size_bucket",
  "retinue_batch_size_count",
  "retinue_batch_size_sum",
  "retinue_calls_in_flight",
  "retinue_images_total",
  "retinue_model_info",
  "retinue_model_memory_bytes",
  "retinue_queue_images",
  "retinue_request_duration_seconds_bucket",
  "retinue_requests_total",
  "retinue_worker_resident_memory_bytes",
]);
const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ANSWERING = new Set(["Classify", "Detect", "Segment", "ModelInfer", "ModelStreamInfer"]);

/**
 * One line.
 *
 * @typedef {{labels: Object<string, string>, value: number}} Sample
 */

/**
 * Reads Prometheus's text format.
 *
 * @param {string} text
 * @returns {Map<string, Map<string, Sample>>} By name, of those that are of use here, and by what its labels are
 *     written as.
 */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const [, name, told = "", value] = SAMPLE.exec(line) ?? [];
    if (!READ.has(name)) continue;
    const labels = {};
    for (const [, label, content] of told.matchAll(LABEL))
      labels[label] = content.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    if (!samples.has(name)) samples.set(name, new Map());
    samples.get(name).set(told, { labels, value: value === "+Inf" ? Infinity : Number(value) });
  }
  return samples;
}

/** A name's samples whose labels are as `wanted` says. */
function chosen(samples, name, wanted) {
  return [...(samples.get(name) ?? [])].filter(([, { labels }]) => wanted(labels));
}

/** Their sum. */
export function sum(samples, name, wanted = () => true) {
  return chosen(samples, name, wanted).reduce((all, [, { value }]) => all + value, 0);
}

/**
 * By how much each grew from one look to the next; what was not there was 0, what is less has begun anew, and what is
 * gone has not grown.
 *
 * @returns {Sample[]}
 */
function grown(before, after, name, wanted) {
  return chosen(after, name, wanted).map(([series, { labels, value }]) => {
    const from = before.get(name)?.get(series)?.value ?? 0;
    return { labels, value: value < from ? value : value - from };
  });
}

/** By how much all of them grew. */
export function growth(before, after, name, wanted = () => true) {
  return grown(before, after, name, wanted).reduce((all, { value }) => all + value, 0);
}

/**
 * What a histogram counted between two looks, by bucket.
 *
 * @returns {Array<[number, number]>} Upper bounds, ascending to Infinity, and how many were in each bucket.
 */
export function counted(before, after, name, wanted = () => true) {
  const bounds = new Map();
  for (const { labels, value } of grown(before, after, `${name}_bucket`, wanted)) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    bounds.set(bound, (bounds.get(bound) ?? 0) + value);
  }
  let below = 0;
  return [...bounds]
    .sort(([one], [other]) => one - other)
    .map(([bound, total]) => {
      const inside = Math.max(0, total - below);
      below = Math.max(below, total);
      return [bound, inside];
    });
}

/**
 * A quantile of what was counted, between the bounds of its bucket in proportion; null of nothing.
 *
 * Source: Prometheus, histogram_quantile.
 */
export function quantile(buckets, share) {
  const all = buckets.reduce((total, [, count]) => total + count, 0);
  if (!all) return null;
  let rest = share * all;
  let low = 0;
  for (const [bound, count] of buckets) {
    if (rest <= count && count) return bound === Infinity ? low : low + ((bound - low) * rest) / count;
    rest -= count;
    low = bound;
  }
  return low;
}

/**
 * Looks, of which the older ones are fewer.
 *
 * @param {Array<{at: number}>} looks In the order of time.
 * @param {number} since In milliseconds: all from then on are kept.
 * @param {number} everyMs The least time between two before.
 */
export function thinned(looks, since, everyMs) {
  let last = -Infinity;
  return looks.filter(({ at }) => {
    if (at < since && at - last < everyMs) return false;
    last = at;
    return true;
  });
}

/** Whether a sample is of a call that models answer. */
export function isAnswer({ method }) {
  return ANSWERING.has(method);
}

/**
 * What happened between two looks.
 *
 * @param {{at: number, samples: Map}} before `at` in milliseconds.
 * @param {{at: number, samples: Map}} after
 */
export function reading(before, after) {
  const seconds = Math.max(0.001, (after.at - before.at) / 1000);
  const from = before.samples;
  const to = after.samples;
  const durations = counted(from, to, "retinue_request_duration_seconds", isAnswer);
  const outcome = (...names) =>
    growth(from, to, "retinue_images_total", (labels) => names.includes(labels.outcome)) / seconds;
  const batches = growth(from, to, "retinue_batch_size_count");
  return {
    at: after.at,
    requests: growth(from, to, "retinue_requests_total", isAnswer) / seconds,
    answered: outcome("answered"),
    others: outcome("failed", "refused", "cancelled"),
    p50: quantile(durations, 0.5),
    p95: quantile(durations, 0.95),
    p99: quantile(durations, 0.99),
    batch: batches ? growth(from, to, "retinue_batch_size_sum") / batches : null,
    ...levels(to),
  };
}

/** What waits and what is being answered at a look. */
export function levels(samples) {
  return { queue: sum(samples, "retinue_queue_images"), inFlight: sum(samples, "retinue_calls_in_flight") };
}

/** Each version that is served, with what happened to it between two looks. */
export function versions(before, after) {
  const seconds = Math.max(0.001, (after.at - before.at) / 1000);
  const from = before.samples;
  const to = after.samples;
  const told = [...(to.get("retinue_model_info")?.values() ?? [])].map(({ labels: { model, version, task } }) => {
    const its = (labels) => labels.model === model && labels.version === version;
    const durations = counted(
      from,
      to,
      "retinue_request_duration_seconds",
      (labels) => its(labels) && isAnswer(labels),
    );
    const batches = growth(from, to, "retinue_batch_size_count", its);
    const memory = (part) => sum(to, "retinue_model_memory_bytes", (labels) => its(labels) && labels.part === part);
    return {
      model,
      version,
      task,
      images:
        growth(from, to, "retinue_images_total", (labels) => its(labels) && labels.outcome === "answered") / seconds,
      requests: growth(from, to, "retinue_requests_total", (labels) => its(labels) && isAnswer(labels)),
      p50: quantile(durations, 0.5),
      p99: quantile(durations, 0.99),
      batch: batches ? growth(from, to, "retinue_batch_size_sum", its) / batches : null,
      queue: sum(to, "retinue_queue_images", its),
      parts: ["weights", "arena", "buffers"].map(memory),
    };
  });
  for (const one of told) {
    const all = told.reduce((total, other) => (other.model === one.model ? total + other.requests : total), 0);
    one.share = all ? one.requests / all : null;
  }
  return told;
}
