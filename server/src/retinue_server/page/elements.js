/** Elements, made of text and numbers only: nothing that comes from elsewhere is ever read as HTML. */

/**
 * Makes an element.
 *
 * @param {string} tag Its name.
 * @param {Object} attributes Its attributes; a function is a listener of the event it is named after. Those that are
 *     undefined, null or false are left out.
 * @param {...(Node|string|number|Array|null|undefined|false)} children What is in it; texts stay text.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  return fill(made, ...children);
}

/** Puts children into an element, in place of what was there. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child || child === 0));
  return parent;
}

/** A field with its label. */
export function labelled(text, field, ...more) {
  return element("label", { class: "field" }, element("span", {}, text), field, ...more);
}

/** A choice of [value, text] pairs, or of [group, pairs] where `grouped`. */
export function choice(pairs, chosen, change, attributes = {}) {
  const option = ([value, text]) => element("option", { value, selected: value === chosen }, text);
  const listen = { change: (event) => change(event.target.value) };
  const options = pairs.map(([first, second]) =>
    Array.isArray(second) ? element("optgroup", { label: first }, second.map(option)) : option([first, second]),
  );
  return element("select", { ...attributes, ...listen }, options);
}

/**
 * A table.
 *
 * @param {string} caption What it is of.
 * @param {Array} heads Of the columns, texts; one that begins with "#" is of numbers, to the right.
 * @param {Array<Array>} rows Cells, of which the first is the head of its row.
 */
export function table(caption, heads, rows) {
  const numeric = heads.map((head) => head.startsWith("#"));
  const kind = (column) => (numeric[column] ? "number" : undefined);
  const cells = (row) =>
    row.map((cell, column) =>
      element(column ? "td" : "th", { scope: column ? undefined : "row", class: kind(column) }, cell),
    );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          heads.map((head, column) => element("th", { scope: "col", class: kind(column) }, head.replace("#", ""))),
        ),
      ),
      element(
        "tbody",
        {},
        rows.map((row) => (row instanceof Node ? row : element("tr", {}, cells(row)))),
      ),
    ),
  );
}

/** Terms and what they are; pairs without a value are left out. */
export function terms(pairs) {
  const told = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return element(
    "dl",
    {},
    told.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** What went wrong, as the server says it. */
export function trouble(error, again) {
  const told = element("div", { class: "trouble", role: "alert" }, element("p", {}, error.message));
  if (error.reason) told.append(element("p", { class: "note" }, error.reason));
  if (again) told.append(element("p", {}, element("button", { type: "button", click: again }, "Try again")));
  return told;
}
