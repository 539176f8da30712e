/** The panel with a request as code, in the language that was chosen. */

import { element, fill } from "./elements.js";
import { LANGUAGES } from "./samples.js";

// Kept while other views are shown.
let chosen = "Python";

/** Shows requests; `element` is what to put into the page. */
export class Code {
  constructor() {
    this.element = element("section", { "aria-label": "The same request as code", class: "code" });
    this.text = element("pre", { tabindex: "0", role: "region", "aria-label": "Code" });
    this.told = element("span", { role: "status", class: "note" });
    this.languages = element(
      "div",
      { class: "buttons", role: "group", "aria-label": "Language" },
      Object.keys(LANGUAGES).map((name) =>
        element("button", { type: "button", "aria-pressed": "false", click: () => this.choose(name) }, name),
      ),
    );
    this.copy = element("button", { type: "button", click: () => this.give() }, "Copy");
  }

  /** @param {import("./samples.js").Asked} asked */
  show(asked) {
    this.asked = asked;
    this.text.textContent = LANGUAGES[chosen](asked);
    for (const button of this.languages.children) {
      button.setAttribute("aria-pressed", String(button.textContent === chosen));
    }
    if (this.element.children.length) return;
    fill(
      this.element,
      element("h2", {}, "The same as code"),
      this.languages,
      this.text,
      element("p", { class: "buttons" }, this.copy, this.told),
    );
  }

  choose(name) {
    chosen = name;
    this.told.textContent = "";
    this.show(this.asked);
  }

  async give() {
    try {
      await navigator.clipboard.writeText(this.text.textContent);
      this.told.textContent = "Copied.";
    } catch {
      // Browsers give the clipboard to pages of this machine and over TLS only.
      getSelection().selectAllChildren(this.text);
      this.told.textContent = "Selected: press Ctrl+C.";
    }
  }
}
