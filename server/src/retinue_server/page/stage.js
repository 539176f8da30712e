/** An image with what a model says of it drawn over it. */

import { element, fill } from "./elements.js";
import { bytesOf, classColour, css, packed, paintHeat, paintRuns } from "./pixels.js";

// Larger masks are drawn with fewer pixels than they have.
const MOST_PIXELS_A_SIDE = 1280;
const MASK_ALPHA = 255;
const FEWEST_PERCENT_ABOVE = 7;

/**
 * What is drawn over an image.
 *
 * @typedef {Object} Drawn
 * @property {{width: number, height: number}} size Of the image as the server sees it, in whose pixels all of it is.
 * @property {Array<{box: Object, label: string, id: number, keypoints: Array}>} [boxes]
 * @property {Array<{runs: number[], id: number}>} [masks]
 * @property {ImageBitmap} [heat]
 * @property {number} [opacity] Of masks and heat, 0 to 1.
 */

/** The image, and what is over it. What it shows is told as a list elsewhere, so all of it is hidden from readers. */
export class Stage {
  constructor() {
    this.image = element("img", { alt: "" });
    this.canvas = element("canvas", {});
    this.boxes = element("div", { class: "boxes" });
    this.note = element("p", { class: "note", hidden: true });
    this.frame = element("div", { class: "frame", "aria-hidden": "true" }, this.image, this.canvas, this.boxes);
    this.element = element("div", { class: "stage", hidden: true }, this.frame, this.note);
    this.address = "";
    // Settled once the image that was shown last is drawn, or is known to be none for browsers.
    this.ready = Promise.resolve();
  }

  /** Shows an image alone, upright as the server reads it. */
  show({ file, name }) {
    this.close();
    this.clear();
    this.element.hidden = false;
    this.address = URL.createObjectURL(file);
    this.image.src = this.address;
    this.image.alt = name;
    this.image.hidden = false;
    this.note.hidden = true;
    this.ready = this.decode(this.address);
  }

  async decode(address) {
    const decoded = await this.image.decode().then(
      () => true,
      () => false,
    );
    // There may be another image by now.
    if (address !== this.address) return;
    if (decoded) this.fit({ width: this.image.naturalWidth, height: this.image.naturalHeight });
    // Such as TIFF, which the server reads.
    else this.image.hidden = true;
  }

  tell(text) {
    this.note.textContent = text;
    this.note.hidden = false;
  }

  fit({ width, height }) {
    this.frame.style.aspectRatio = `${width} / ${height}`;
    // As wide as lets all of it be seen.
    this.frame.style.setProperty("--ratio", width / height);
    this.frame.style.setProperty("--width", `${Math.max(width, 240)}px`);
  }

  clear() {
    this.canvas.width = this.canvas.height = 1;
    fill(this.boxes);
  }

  /** @param {Drawn} drawn */
  draw({ size, boxes = [], masks = [], heat, opacity = 1 }) {
    if (this.image.hidden) {
      this.tell("The browser cannot show this file; the results are drawn in an empty frame.");
      this.fit(size);
    } else if (this.image.naturalWidth !== size.width || this.image.naturalHeight !== size.height) {
      this.tell(`The server reads this image as ${size.width}×${size.height} pixels, the browser otherwise.`);
      this.fit(size);
    }
    this.drawPixels(size, masks, heat);
    this.canvas.style.opacity = opacity;
    // The best are in front.
    fill(
      this.boxes,
      boxes.map((one, index) => drawnBox(one, size, boxes.length - index)),
    );
  }

  drawPixels(size, masks, heat) {
    const scale = Math.min(1, MOST_PIXELS_A_SIDE / Math.max(size.width, size.height));
    const width = Math.max(1, Math.round(size.width * scale));
    const height = Math.max(1, Math.round(size.height * scale));
    this.canvas.width = width;
    this.canvas.height = height;
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (heat) {
      context.drawImage(heat, 0, 0, width, height);
      const data = context.getImageData(0, 0, width, height);
      paintHeat(data.data);
      context.putImageData(data, 0, 0);
    } else if (masks.length) {
      const data = context.createImageData(width, height);
      const pixels = new Uint32Array(data.data.buffer);
      for (const { runs, id } of masks) {
        paintRuns(pixels, { width, height }, runs, size, packed([...classColour(id), MASK_ALPHA]));
      }
      context.putImageData(data, 0, 0);
    }
  }

  /** Has one box stand out, or none. */
  point(index) {
    for (const [at, box] of this.boxes.querySelectorAll(".box").entries())
      box.classList.toggle("pointed", at === index);
  }

  close() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = "";
  }
}

/** A heatmap as the server gives it, to be drawn. */
export async function heatmap(base64) {
  return createImageBitmap(new Blob([bytesOf(base64)], { type: "image/png" }));
}

function drawnBox({ box, label, id, keypoints = [] }, size, layer) {
  const colour = css(classColour(id));
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  const top = (100 * box.y_min) / size.height;
  const tag = element("span", { class: top < FEWEST_PERCENT_ABOVE ? "tag inside" : "tag" }, label);
  const drawn = element("div", { class: "box" }, tag);
  drawn.style.left = percent(box.x_min, size.width);
  drawn.style.top = `${top}%`;
  drawn.style.width = percent(box.x_max - box.x_min, size.width);
  drawn.style.height = percent(box.y_max - box.y_min, size.height);
  drawn.style.zIndex = layer;
  drawn.style.setProperty("--colour", colour);
  const points = keypoints.map(({ x, y }) => {
    const point = element("i", { class: "point" });
    point.style.left = percent(x, size.width);
    point.style.top = percent(y, size.height);
    point.style.zIndex = layer;
    point.style.setProperty("--colour", colour);
    return point;
  });
  return [drawn, points];
}
