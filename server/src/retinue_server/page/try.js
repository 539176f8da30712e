/** The view in which a model is tried on an image. */

import { Code } from "./code.js";
import { choice, element, fill, labelled, trouble } from "./elements.js";
import { pictures } from "./picture.js";
import { pathOf } from "./samples.js";
import { ask, facts, listModels, ServerError, sentence } from "./server.js";
import { Stage } from "./stage.js";
import { TASKS, taskOf } from "./tasks.js";
import { showTiming } from "./timing.js";
import { percent } from "./words.js";

export const title = "Try";

// Kept while other views are shown.
const kept = {
  model: "",
  picture: undefined,
  opacity: 0.65,
  settings: { top_k: 5, heatmap: false, masks: true, classify_with: "", iou_threshold: undefined },
};

/** Shows the view; returns what closes it. */
export function open(place, [model]) {
  const view = new Try(place, model);
  view.start();
  return () => view.close();
}

class Try {
  constructor(place, model) {
    this.place = place;
    if (model) kept.model = model;
    this.stage = new Stage();
    this.models = [];
    this.version = "";
    this.closed = false;
    this.asking = new AbortController();
    this.controls = element("div", { class: "controls" });
    this.trouble = element("div", {});
    this.status = element("p", { class: "status", role: "status" });
    this.sliders = element("div", { class: "sliders" });
    this.list = element("div", {});
    this.timing = element("section", { "aria-label": "Timing", hidden: true });
    this.code = new Code();
    this.hint = element("p", { class: "hint" }, "Drop or paste an image here, or choose one.");
    this.drop = element("section", { class: "drop", "aria-label": "Image" }, this.hint, this.stage.element);
    this.pictures = pictures(
      this.drop,
      (picture) => this.take(picture),
      () => this.task,
      (error) => fill(this.trouble, trouble(error)),
    );
  }

  async start() {
    fill(
      this.place,
      element("h1", {}, "Try a model"),
      this.controls,
      element(
        "div",
        { class: "columns" },
        element("div", { class: "left" }, this.pictures.buttons, this.drop, this.sliders),
        element(
          "div",
          { class: "right" },
          this.trouble,
          element(
            "section",
            { "aria-label": "Result", class: "result" },
            element("h2", {}, "Result"),
            this.status,
            this.list,
          ),
          this.timing,
          this.code.element,
        ),
      ),
    );
    this.status.textContent = "There is no image yet.";
    try {
      const [models, told] = await Promise.all([listModels(), facts()]);
      if (this.closed) return;
      this.models = models.filter((one) => taskOf(one) in TASKS);
      this.facts = told;
    } catch (error) {
      if (this.closed) return;
      fill(
        this.trouble,
        trouble(error, () => this.start()),
      );
      return;
    }
    if (!this.models.length) {
      this.status.textContent = "The server has no model for images.";
      return;
    }
    fill(this.trouble);
    if (kept.picture) this.show(kept.picture);
    this.choose(this.models.some((one) => one.name === kept.model) ? kept.model : this.first());
  }

  /** A classifier of photos, where there is one: what most people have at hand. */
  first() {
    const colourful = this.models.filter(
      (one) => taskOf(one) === "classify" && one.manifest.input?.colour === "COLOUR_RGB",
    );
    return (colourful[0] ?? this.models[0]).name;
  }

  get model() {
    const named = this.models.filter((one) => one.name === kept.model);
    const labels = named[0].serving?.labels ?? {};
    return named.find((one) => String(one.version) === String(labels[this.version] ?? this.version)) ?? named[0];
  }

  get task() {
    return this.models.length ? taskOf(this.model) : "classify";
  }

  choose(name) {
    kept.model = name;
    this.version = "";
    history.replaceState(null, "", `#/try/${encodeURIComponent(name)}`);
    this.changed();
  }

  /** The model or what is asked of it has changed. */
  changed() {
    this.allow();
    this.threshold = this.limit?.value ?? 0;
    this.showControls();
    this.showSliders();
    this.forget();
    fill(this.trouble);
    if (kept.picture) this.ask();
    else this.showCode();
  }

  /** Lets the threshold go as low as the model's does. */
  allow() {
    this.limit = TASKS[this.task].threshold(this.model);
  }

  /** Nothing is told of what was asked before. */
  forget() {
    this.asking.abort();
    this.answer = undefined;
    this.stage.clear();
    fill(this.list);
    this.timing.hidden = true;
  }

  showControls() {
    const grouped = Object.keys(TASKS)
      .map((task) => [
        task,
        [...new Set(this.models.filter((one) => taskOf(one) === task).map((one) => one.name))].map((name) => [
          name,
          name,
        ]),
      ])
      .filter(([, pairs]) => pairs.length);
    const named = this.models.filter((one) => one.name === kept.model);
    const labels = Object.entries(named[0].serving?.labels ?? {});
    const versions = [
      ["", named[0].serving?.split?.length ? "as shared out" : "newest"],
      ...named.map(({ version }) => [String(version), String(version)]),
      ...labels.map(([label, version]) => [label, `${label} (${version})`]),
    ];
    const focused = document.activeElement?.dataset?.keep;
    fill(
      this.controls,
      labelled(
        "Model",
        choice(grouped, kept.model, (name) => this.choose(name), { "data-keep": "model" }),
      ),
      labelled(
        "Version",
        choice(
          versions,
          this.version,
          (version) => {
            this.version = version;
            this.changed();
          },
          { "data-keep": "version" },
        ),
      ),
      TASKS[this.task].controls(
        this.model,
        kept.settings,
        (change) => {
          Object.assign(kept.settings, change);
          this.allow();
          this.showSliders();
          if (kept.picture) this.ask();
          else this.showCode();
        },
        this.models,
      ),
      element("a", { href: `#/models/${encodeURIComponent(kept.model)}/${this.model.version}` }, "About this model"),
    );
    if (focused) this.controls.querySelector(`[data-keep=${focused}]`)?.focus();
  }

  showSliders() {
    const task = TASKS[this.task];
    const slider = (text, value, least, change, told) => {
      const output = element("output", {}, told(value));
      const input = element("input", {
        type: "range",
        // Steps are counted from here: from 0.105 on neither 0.5 nor 1 would be reached.
        min: Math.floor(100 * least) / 100,
        max: 1,
        step: 0.01,
        value,
        input: () => {
          const chosen = Math.max(least, input.valueAsNumber);
          output.textContent = told(chosen);
          change(chosen);
        },
      });
      return labelled(text, input, output);
    };
    fill(
      this.sliders,
      this.limit &&
        slider(
          this.limit.text,
          this.threshold,
          this.limit.least,
          (value) => {
            this.threshold = value;
            // Sliders tell of more places than are ever shown.
            this.frame ??= requestAnimationFrame(() => this.redraw());
          },
          percent,
        ),
      task.hasOpacity(kept.settings, this.model) &&
        slider(
          "Opacity",
          kept.opacity,
          0,
          (value) => {
            kept.opacity = value;
            this.stage.canvas.style.opacity = value;
          },
          percent,
        ),
    );
  }

  take(picture) {
    if (this.closed) return;
    kept.picture = picture;
    this.forget();
    this.show(picture);
    // Else it is asked about once they are known.
    if (!this.models.length) return;
    this.allow();
    this.showSliders();
    this.ask();
  }

  show(picture) {
    this.hint.hidden = true;
    this.stage.show(picture);
  }

  /** Asks the server about the image, at the least threshold: what is shown of the answer is chosen here. */
  async ask(least = this.limit?.least) {
    this.asking.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const { picture } = kept;
    const task = TASKS[this.task];
    this.options = task.options(this.model, kept.settings, least);
    this.place.setAttribute("aria-busy", "true");
    this.status.textContent = "Asking…";
    try {
      const began = performance.now();
      const path = pathOf({ task: this.task, model: kept.model, version: this.version, options: this.options });
      const response = await ask(path, { method: "POST", body: picture.file, signal });
      const reply = await response.json();
      const waitedMs = performance.now() - began;
      const [outcome] = reply.outcomes;
      const answer = await task.read(outcome.result);
      await this.stage.ready;
      if (signal.aborted) return;
      this.answer = answer;
      this.answeredBy = reply;
      fill(this.trouble);
      showTiming(this.timing, outcome.timing, waitedMs);
      this.timing.hidden = false;
      this.redraw();
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) this.fail(error, least);
    } finally {
      if (!signal.aborted) this.place.removeAttribute("aria-busy");
    }
  }

  fail(error, least) {
    const usual = this.limit?.value;
    if (error.reason === "MASKS_TOO_LARGE" && least < usual) {
      // Those of fewer objects may be small enough.
      this.limit = { ...this.limit, least: usual };
      this.threshold = Math.max(this.threshold, usual);
      this.showSliders();
      this.ask(usual);
      return;
    }
    this.forget();
    this.place.removeAttribute("aria-busy");
    this.status.textContent = "There is no result.";
    if (!(error instanceof ServerError))
      error = new Error(sentence(`the page could not show the answer: ${error.message}`));
    fill(
      this.trouble,
      trouble(error, () => this.ask()),
    );
    this.showCode();
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    this.showCode();
    if (!this.answer) return;
    this.draw();
    const task = TASKS[this.task];
    const told = task.show(this.list, this.answer, this.threshold, this.stage, () => this.draw());
    this.status.textContent = `${told} Version ${this.answeredBy.version} answered.`;
  }

  /** Draws over the image. */
  draw() {
    const task = TASKS[this.task];
    const natural = this.stage.image.hidden
      ? { width: 4, height: 3 }
      : { width: this.stage.image.naturalWidth, height: this.stage.image.naturalHeight };
    this.stage.draw({ ...task.drawn(this.answer, this.threshold, natural), opacity: kept.opacity });
  }

  showCode() {
    const task = TASKS[this.task];
    const asked = {
      task: this.task,
      model: kept.model,
      version: this.version,
      options: task.sampled(task.options(this.model, kept.settings, this.threshold), this.threshold),
      file: kept.picture?.name ?? "image.jpg",
      origin: location.origin,
      facts: this.facts,
    };
    this.code.show(asked);
  }

  close() {
    this.closed = true;
    cancelAnimationFrame(this.frame);
    this.asking.abort();
    this.pictures.close();
    this.stage.close();
  }
}
