/** What differs by task: what can be asked, and how an answer is shown as a list and over the image. */

import { choice, element, fill, labelled, table } from "./elements.js";
import { classColour, css, runsOf } from "./pixels.js";
import { heatmap } from "./stage.js";
import { percent } from "./words.js";

/** The task of a model, as this page and the paths of the API name it. */
export function taskOf(model) {
  return model.manifest.task.replace("TASK_", "").toLowerCase();
}

function number(text, value, limits, change) {
  return labelled(
    text,
    element("input", {
      type: "number",
      value,
      ...limits,
      change: (event) => {
        if (event.target.checkValidity()) change(event.target.valueAsNumber);
        else event.target.reportValidity();
      },
    }),
  );
}

function tick(text, checked, change) {
  return element(
    "label",
    { class: "tick" },
    element("input", { type: "checkbox", checked, change: (event) => change(event.target.checked) }),
    text,
  );
}

function swatch(id) {
  const made = element("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = css(classColour(id));
  return made;
}

const classify = {
  threshold: () => ({ text: "Least score", least: 0, value: 0 }),
  hasOpacity: (settings, { manifest }) => Boolean(settings.heatmap && manifest.classify?.heatmap_height),
  controls: ({ manifest }, settings, change) => [
    number(
      "Classes",
      Math.min(settings.top_k, manifest.labels.length),
      { min: 1, max: manifest.labels.length },
      (top_k) => change({ top_k }),
    ),
    manifest.classify?.heatmap_height > 0 &&
      tick("Heatmap: where the model sees it", settings.heatmap, (heatmap) => change({ heatmap })),
  ],
  options: ({ manifest }, settings) => ({
    top_k: Math.min(settings.top_k, manifest.labels.length),
    ...(settings.heatmap && manifest.classify?.heatmap_height ? { heatmap: true } : {}),
  }),
  sampled: (options, threshold) => (threshold ? { ...options, min_score: threshold } : options),
  read: async (result) => ({ ...result, heat: result.heatmap ? await heatmap(result.heatmap) : undefined }),
  drawn: ({ heat }, _shown, natural) => ({
    size: heat && !natural ? { width: heat.width, height: heat.height } : natural,
    heat,
  }),
  show(place, { classes }, threshold) {
    const shown = classes.filter(({ score }) => score >= threshold);
    fill(
      place,
      element(
        "ol",
        { class: "classes" },
        shown.map(({ label, score }) => {
          const bar = element("i", { class: "score", "aria-hidden": "true" });
          bar.style.width = `${100 * score}%`;
          return element("li", {}, element("span", { class: "label" }, label), element("b", {}, percent(score)), bar);
        }),
      ),
    );
    const best = shown[0];
    return best ? `${best.label}, ${percent(best.score)}.` : `No class has a score of ${percent(threshold)} or more.`;
  },
};

const detect = {
  threshold: ({ manifest: { detect: told } }) => ({
    text: "Least score",
    least: told.min_score,
    value: Math.max(told.min_score, told.default_score_threshold),
  }),
  hasOpacity: (settings, { manifest }) => Boolean(settings.masks && manifest.detect.mask_height),
  controls: ({ manifest }, settings, change, models) => {
    const classifiers = models.filter((one) => taskOf(one) === "classify").map((one) => one.name);
    const own = manifest.pipeline ? "its own" : "none";
    return [
      classifiers.length > 0 &&
        labelled(
          "Classifier for each object",
          choice(
            [["", own], ...[...new Set(classifiers)].map((name) => [name, name])],
            settings.classify_with,
            (classify_with) => change({ classify_with }),
          ),
        ),
      manifest.detect.adjustable_thresholds &&
        number(
          "Most overlap",
          settings.iou_threshold ?? manifest.detect.nms_iou_threshold,
          { min: 0, max: 1, step: 0.05 },
          (iou_threshold) => change({ iou_threshold }),
        ),
      manifest.detect.mask_height > 0 && tick("Masks", settings.masks, (masks) => change({ masks })),
    ];
  },
  options: ({ manifest }, settings, least) => ({
    score_threshold: least,
    ...(settings.iou_threshold !== undefined && manifest.detect.adjustable_thresholds
      ? { iou_threshold: settings.iou_threshold }
      : {}),
    ...(settings.masks && manifest.detect.mask_height ? { masks: true } : {}),
    ...(settings.classify_with ? { classify_with: settings.classify_with } : {}),
  }),
  sampled: (options, threshold) => ({ ...options, score_threshold: threshold }),
  read: async (result) => ({
    size: { width: result.image_width, height: result.image_height },
    detections: result.detections.map((one) => ({ ...one, runs: one.mask_counts && runsOf(one.mask_counts) })),
  }),
  drawn: ({ size, detections }, threshold) => {
    const shown = detections.filter(({ score }) => score >= threshold);
    // The best one is drawn last, over the others.
    const masks = shown
      .filter(({ runs }) => runs)
      .map(({ runs, class_id: id }) => ({ runs, id }))
      .reverse();
    return {
      size,
      masks,
      boxes: shown.map((one) => ({
        box: one.box,
        id: one.class_id,
        keypoints: one.keypoints,
        label: `${one.label} ${percent(one.score)}`,
      })),
    };
  },
  show(place, { detections }, threshold, stage) {
    const shown = detections.filter(({ score }) => score >= threshold);
    const asked = shown.some(({ classes }) => classes.length);
    const rows = shown.map((one, index) =>
      element(
        "tr",
        { pointerenter: () => stage.point(index), pointerleave: () => stage.point(-1) },
        element("th", { scope: "row" }, swatch(one.class_id), one.label),
        element("td", { class: "number" }, percent(one.score)),
        asked &&
          element(
            "td",
            {},
            one.classes.slice(0, 1).map(({ label, score }) => `${label} ${percent(score)}`),
          ),
        element(
          "td",
          { class: "number" },
          ["x_min", "y_min", "x_max", "y_max"].map((side) => Math.round(one.box[side])).join(", "),
        ),
      ),
    );
    const heads = ["Object", "#Score", ...(asked ? ["Classifier"] : []), "#Left, top, right, bottom"];
    fill(place, shown.length ? table("Objects", heads, rows) : undefined);
    const most = shown.length === 1 ? "1 object" : `${shown.length} objects`;
    return `${most} with a score of ${percent(threshold)} or more.`;
  },
};

const segment = {
  threshold: () => null,
  hasOpacity: () => true,
  controls: () => [],
  options: () => ({ mask_format: "coco_rle" }),
  sampled: () => ({}),
  read: async ({ width, height, coco_rle: told, areas }) => ({
    size: { width, height },
    areas,
    masks: told.masks.map(({ class_id: id, counts }) => ({ id, runs: runsOf(counts) })),
    left: new Set(),
  }),
  drawn: ({ size, masks, left }) => ({ size, masks: masks.filter(({ id }) => !left.has(id)) }),
  show(place, { areas, size, masks, left }, _threshold, _stage, draw) {
    const drawnIds = new Set(masks.map(({ id }) => id));
    const share = (pixels) => percent(pixels / (size.width * size.height));
    fill(
      place,
      element(
        "ul",
        { class: "areas" },
        areas.map(({ class_id: id, label, area_pixels: pixels }) => {
          const toggle = (shown) => {
            left[shown ? "delete" : "add"](id);
            // The list stays, and the focus in it.
            draw();
          };
          const name = drawnIds.has(id)
            ? tick([swatch(id), label], !left.has(id), toggle)
            : element("span", { class: "tick" }, label);
          return element("li", {}, name, element("b", {}, share(pixels)));
        }),
      ),
    );
    const others = areas.filter(({ class_id: id }) => drawnIds.has(id));
    return others.length
      ? others.map(({ label, area_pixels: pixels }) => `${label} ${share(pixels)}`).join(", ")
      : "Nothing but background.";
  },
};

/** By name; models of others are not for images. */
export const TASKS = { classify, detect, segment };
