/** The view of the models: which there are, and of one what its manifest, its certificate and its measurements say. */

import { short } from "./chart.js";
import { element, fill, table, terms, trouble } from "./elements.js";
import { ask, listModels } from "./server.js";
import { TASKS, taskOf } from "./tasks.js";
import { difference, mebibytes, milliseconds, name } from "./words.js";

export const title = "Models";

const AGREEMENTS = new Set(["top1_agreement", "pixel_agreement", "detection_agreement"]);
const MOST_LABELS = 2000;

/** Shows the view; returns what closes it. */
export function open(place, [model, version]) {
  let left = false;
  const start = async () => {
    fill(place, element("h1", {}, model ?? "Models"), element("p", { role: "status" }, "Asking…"));
    try {
      const shown = model ? await one(model, version) : await all();
      if (!left) fill(place, shown);
    } catch (error) {
      if (!left) fill(place, element("h1", {}, model ?? "Models"), trouble(error, start));
    }
  };
  start();
  return () => (left = true);
}

function addressOf({ name: model, version }) {
  return `#/models/${encodeURIComponent(model)}/${version}`;
}

async function all() {
  const [models, refused] = await Promise.all([listModels(), listRefused()]);
  const heads = [
    "Model",
    "#Version",
    "Task",
    "Input",
    "Precision",
    "#Largest batch",
    "#Images/s an instance",
    "#Memory, MiB",
  ];
  const rows = models.map((one) => [
    element("a", { href: addressOf(one) }, one.name),
    one.version,
    taskOf(one),
    inputOf(one.manifest),
    name(one.manifest.precision),
    one.execution.max_batch_size,
    one.execution.images_per_second ? short(one.execution.images_per_second) : "–",
    mebibytes(one.execution.memory_bytes),
  ]);
  return [
    element("h1", {}, "Models"),
    models.length
      ? element("section", { "aria-label": "Served" }, table("Models that are served", heads, rows))
      : element("p", {}, "None is served."),
    refused.length > 0 &&
      element(
        "section",
        { "aria-label": "Not served" },
        element("h2", {}, "Not served"),
        table("Models that are not served", ["Model", "#Version", "State", "Why"], refused),
      ),
  ];
}

/** What is there and not served, with why; nothing for those whose token does not reach so far. */
async function listRefused() {
  try {
    const index = await (await ask("/v2/repository/index", { method: "POST", quiet: true })).json();
    return index
      .filter(({ state }) => state !== "READY")
      .map(({ name: model, version, state, reason }) => [model, version, state.toLowerCase(), reason]);
  } catch {
    return [];
  }
}

async function one(model, version) {
  const path = `/v1/models/${encodeURIComponent(model)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;
  const [told, models] = await Promise.all([ask(path).then((response) => response.json()), listModels()]);
  const { manifest } = told;
  return [
    element("p", { class: "note" }, element("a", { href: "#/models" }, "All models")),
    element("h1", {}, `${told.name} `, element("small", {}, `version ${told.version}`)),
    manifest.description && element("p", {}, manifest.description),
    taskOf(told) in TASKS &&
      element(
        "p",
        {},
        element("a", { class: "button main", href: `#/try/${encodeURIComponent(told.name)}` }, "Try it"),
      ),
    element(
      "div",
      { class: "charts" },
      [
        section(
          "What it is",
          terms([
            ["Task", taskOf(told)],
            ["Input", inputOf(manifest)],
            ["Resize", resizeOf(manifest)],
            ["Classes", manifest.labels.length || undefined],
            ["Precision", name(manifest.precision)],
            ["Operators", manifest.opset ? `ONNX opset ${manifest.opset}` : undefined],
            ["Made", manifest.created_at],
            ["SHA-256", manifest.sha256 && element("code", {}, manifest.sha256)],
          ]),
        ),
        section(
          "Source and licence",
          terms([
            ["Licence", manifest.source?.licence],
            ["Network", manifest.source?.architecture],
            ["Weights", manifest.source?.weights],
            [
              "Weights' SHA-256",
              manifest.source?.weights_sha256 && element("code", {}, manifest.source.weights_sha256),
            ],
            ["Framework", manifest.source?.framework],
          ]),
        ),
        section("How it runs here", running(told.execution)),
        section("Versions and policy", policy(told, models)),
      ].filter(Boolean),
    ),
    tuning(told.execution),
    parity(manifest.parity),
    quality(manifest),
    pipeline(manifest.pipeline),
    element(
      "details",
      {},
      element("summary", {}, "Labels"),
      element(
        "p",
        { class: "labels" },
        manifest.labels
          .slice(0, MOST_LABELS)
          .map((label, id) => [
            element("span", { class: "quiet" }, `${id} `),
            label,
            id + 1 < manifest.labels.length ? ", " : "",
          ]),
        manifest.labels.length > MOST_LABELS && `and ${manifest.labels.length - MOST_LABELS} more`,
      ),
    ),
    element(
      "details",
      {},
      element("summary", {}, "Manifest as JSON"),
      element("pre", { tabindex: "0", role: "region", "aria-label": "Manifest" }, JSON.stringify(manifest, null, 2)),
    ),
  ];
}

function section(heading, ...content) {
  const shown = content.flat().filter(Boolean);
  return shown.length > 0 && element("section", {}, element("h2", {}, heading), shown);
}

function inputOf({ input }) {
  return input ? `${input.width}×${input.height} ${name(input.colour)}` : "tensors";
}

function resizeOf({ input }) {
  if (!input?.resize) return undefined;
  const { mode, interpolation, shorter_side: side, pad_value: pad } = input.resize;
  const more = {
    RESIZE_MODE_SHORTER_SIDE_CENTER_CROP: ` at ${side}`,
    RESIZE_MODE_LETTERBOX: `, filled with grey ${pad}`,
  };
  return `${name(mode)}${more[mode] ?? ""}, ${name(interpolation)}`;
}

function running(execution) {
  const { memory } = execution;
  return terms([
    ["Provider", execution.provider],
    ["Not a GPU, since", execution.fallback_reason],
    ["ONNX Runtime", execution.runtime_version],
    ["Memory in all", `${mebibytes(execution.memory_bytes)} MiB`],
    ["Weights", memory && `${mebibytes(memory.weights_bytes)} MiB`],
    ["Arena", memory && `${mebibytes(memory.arena_bytes)} MiB`],
    ["Buffers", memory && `${mebibytes(memory.buffers_bytes)} MiB`],
  ]);
}

function tuning(execution) {
  if (!execution.batches.length) return undefined;
  const best = execution.max_batch_size;
  const rows = execution.batches.map(({ batch_size: size, batch_us: us }) => [
    `${size}${size === best ? ", chosen as the largest" : ""}`,
    milliseconds(us / 1000),
    us ? short((size * 1e6) / us) : "–",
  ]);
  const alone = execution.alone_on_all_cores
    ? "on all cores"
    : execution.threads_per_instance === 1
      ? "with one thread"
      : `with ${execution.threads_per_instance} threads`;
  return section(
    "Tuning profile",
    element(
      "p",
      {},
      "Measured on this machine without decoding, up to the smallest batch that is near the best rate; larger ones would only add latency and memory.",
    ),
    table("Batches that were measured", ["Images in a batch", "#A batch takes", "#Images/s an instance"], rows),
    terms([
      ["Batches at once", execution.instances],
      ["Threads of each", execution.threads_per_instance],
      [
        "A lone image",
        execution.lone_image_us ? `${milliseconds(execution.lone_image_us / 1000)}, ${alone}` : undefined,
      ],
    ]),
  );
}

function parity(told) {
  if (!told) return undefined;
  const row =
    (kind) =>
    ({ output, max_difference: most, mean_difference: mean, tolerance }) => [
      output,
      kind,
      difference(most),
      difference(mean),
      tolerance ? difference(tolerance) : "–",
      tolerance ? (most <= tolerance ? "holds" : "exceeded") : "–",
    ];
  return section(
    "Parity certificate",
    terms([
      ["Reference", told.reference],
      ["Engines", told.engines],
      ["Inputs", `${told.inputs} (${told.images} images, batches of ${told.batch_sizes.join(", ")})`],
    ]),
    table(
      "Differences",
      ["Output", "Compared", "#Largest difference", "#Mean difference", "#Tolerance", "Verdict"],
      [...told.outputs.map(row("graph with reference")), ...told.rounding.map(row("fewer bits"))],
    ),
  );
}

function quality({ quality: measured, speeds, quantisation }) {
  const shown = [];
  if (measured.length) {
    shown.push(
      table(
        "Quality",
        ["Measure", "#Value", "Images", "Precision", "Engine"],
        measured.map((one) => [
          AGREEMENTS.has(one.metric) ? `${one.metric} with 32 bits` : one.metric,
          one.value.toFixed(4),
          `${one.dataset} (${one.images})`,
          name(one.precision),
          one.engine,
        ]),
      ),
    );
  }
  if (speeds.length) {
    shown.push(
      table(
        "Speed when it was exported",
        ["Precision", "Provider", "Device", "#Batch", "#Images/s"],
        speeds.map((one) => [
          name(one.precision),
          one.provider,
          one.device,
          one.batch_size,
          short(one.images_per_second),
        ]),
      ),
    );
  }
  if (quantisation)
    shown.push(
      terms([
        ["Quantisation", quantisation.method],
        ["Calibrated on", `${quantisation.calibration} (${quantisation.calibration_images} images)`],
      ]),
    );
  return section("Quality", shown);
}

function pipeline(told) {
  if (!told) return undefined;
  return section(
    "Pipeline",
    element(
      "ol",
      {},
      told.steps.map((step) =>
        element(
          "li",
          {},
          element(
            "a",
            { href: `#/models/${encodeURIComponent(step.model)}${step.version ? `/${step.version}` : ""}` },
            step.model,
          ),
          step.version ? ` version ${step.version}` : "",
        ),
      ),
    ),
  );
}

function policy(told, models) {
  const serving = told.serving ?? {};
  const target = (share) => share.label ?? `version ${share.version}`;
  const others = models.filter((one) => one.name === told.name);
  return terms([
    [
      "Served",
      others.map((one, index) => [
        index ? ", " : "",
        one.version === told.version ? String(one.version) : element("a", { href: addressOf(one) }, one.version),
      ]),
    ],
    [
      "Labels",
      Object.entries(serving.labels ?? {})
        .map(([label, version]) => `${label}: ${version}`)
        .join(", "),
    ],
    [
      "Traffic",
      serving.split?.length
        ? serving.split.map((share) => `${target(share)} ${share.percent} %`).join(", ")
        : "all to the newest",
    ],
    ["Sticky by", serving.sticky_key],
    ["Shadow", serving.shadow && `${target(serving.shadow)} of ${serving.shadow.percent} %`],
    ["Kept", serving.latest ? `the newest ${serving.latest}` : serving.list?.versions?.join(", ")],
  ]);
}
