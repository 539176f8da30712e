/** Where images come from: files, the clipboard, dropping, examples, the camera. */

import { element } from "./elements.js";
import { ask } from "./server.js";

const EXAMPLES = { classify: "cat.jpg", detect: "scene.jpg", segment: "scene.jpg" };
const JPEG_QUALITY = 0.92;

/**
 * An image as it was given.
 *
 * @typedef {Object} Picture
 * @property {Blob} file Its bytes, which are sent as they are.
 * @property {string} name Of the file.
 */

/**
 * Buttons and a place that images come by; `take` gets each.
 *
 * @param {HTMLElement} place What shows that they may be dropped.
 * @param {(picture: Picture) => void} take
 * @param {() => string} task Of the model that is chosen, for an example.
 * @param {(error: Error) => void} fail Told where there is none.
 * @returns {{buttons: HTMLElement, close: () => void}}
 */
export function pictures(place, take, task, fail) {
  const gone = new AbortController();
  const { signal } = gone;
  let turn = 0;
  const taken = (file, name) => {
    if (!file || signal.aborted) return;
    turn++;
    take({ file, name: name || file.name || "image.png" });
  };
  const input = element("input", {
    type: "file",
    accept: "image/*",
    hidden: true,
    change: () => {
      taken(input.files[0]);
      // So that the same file may be chosen again.
      input.value = "";
    },
  });
  const photo = element("input", {
    type: "file",
    accept: "image/*",
    capture: "environment",
    hidden: true,
    change: () => taken(photo.files[0]),
  });

  // Anywhere: beside the place the browser would leave the page for the file.
  document.addEventListener(
    "dragover",
    (event) => {
      event.preventDefault();
      place.classList.add("over");
    },
    { signal },
  );
  for (const name of ["dragleave", "drop"])
    document.addEventListener(name, () => place.classList.remove("over"), { signal });
  document.addEventListener(
    "drop",
    (event) => {
      event.preventDefault();
      const file = event.dataTransfer.files[0];
      if (file) taken(file);
      else fail(new Error("What was dropped is no file; save the image first, or copy and paste it."));
    },
    { signal },
  );
  document.addEventListener(
    "paste",
    (event) => {
      const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
      if (file) taken(file);
      else if (!event.target.matches("input, textarea")) fail(new Error("There is no image in the clipboard."));
    },
    { signal },
  );

  const example = async () => {
    const name = EXAMPLES[task()] ?? "cat.jpg";
    const mine = ++turn;
    try {
      const file = await (await ask(`/ui/${name}`, { signal })).blob();
      // There may be a later image by now.
      if (mine === turn) taken(file, name);
    } catch (error) {
      if (mine === turn && !signal.aborted) fail(error);
    }
  };
  const camera = new Camera(taken, fail);
  const buttons = element(
    "div",
    { class: "buttons" },
    element("button", { type: "button", class: "main", click: () => input.click() }, "Choose an image"),
    element("button", { type: "button", click: () => (camera.there ? camera.open() : photo.click()) }, "Camera"),
    element("button", { type: "button", click: example }, "Example"),
    input,
    photo,
    camera.dialog,
  );
  return {
    buttons,
    close: () => {
      gone.abort();
      camera.leave();
    },
  };
}

/** A dialog with what the camera sees. Browsers give it to pages of this machine and over TLS only. */
class Camera {
  constructor(taken, fail) {
    this.there = Boolean(navigator.mediaDevices?.getUserMedia);
    this.fail = fail;
    this.pending = false;
    this.left = false;
    this.video = element("video", {
      autoplay: true,
      playsinline: true,
      muted: true,
      "aria-label": "What the camera sees",
    });
    this.dialog = element(
      "dialog",
      { "aria-label": "Camera", close: () => this.stop() },
      this.video,
      element(
        "p",
        { class: "buttons" },
        element("button", { type: "button", class: "main", click: () => this.shoot(taken) }, "Take it"),
        element("button", { type: "button", click: () => this.close() }, "Close"),
      ),
    );
  }

  async open() {
    if (this.pending) return;
    this.pending = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      this.stop();
      this.video.srcObject = stream;
      // People may take as long as they like to allow it.
      if (this.left) this.stop();
      else this.dialog.showModal();
    } catch (error) {
      this.stop();
      if (this.left) return;
      this.fail(
        new Error(
          error.name === "NotAllowedError"
            ? "The browser was not allowed to use the camera."
            : "There is no camera that the browser can use.",
        ),
      );
    } finally {
      this.pending = false;
    }
  }

  shoot(taken) {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return;
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    canvas.toBlob((blob) => taken(blob, "camera.jpg"), "image/jpeg", JPEG_QUALITY);
    this.close();
  }

  close() {
    this.dialog.close();
    this.stop();
  }

  /** Closes it for good. */
  leave() {
    this.left = true;
    this.close();
  }

  stop() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }
}
