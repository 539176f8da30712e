/** The page's frame: which view is shown, and the token where the server wants one. */

import { element, fill, trouble } from "./elements.js";
import { ask, facts, refusals, ServerError, token } from "./server.js";

// Loaded when they are first shown.
const VIEWS = {
  try: () => import("./try.js"),
  live: () => import("./live.js"),
  models: () => import("./models.js"),
};

const view = document.getElementById("view");
const dialog = document.getElementById("token-dialog");
const field = document.getElementById("token-field");
let leave = () => {};
let turn = 0;

async function show() {
  const mine = ++turn;
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const shown = Object.hasOwn(VIEWS, name) ? name : "try";
  leave();
  leave = () => {};
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.hash === `#/${shown}`;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  let loaded;
  try {
    loaded = await VIEWS[shown]();
  } catch {
    if (mine === turn) tellUnloaded();
    return;
  }
  if (mine !== turn) return;
  const { open, title } = loaded;
  document.title = `${title}: Retinue`;
  const place = element("div", { class: `view ${shown}` });
  fill(view, place);
  leave = open(place, rest) ?? (() => {});
}

/** Shows that a view could not be loaded. Some browsers remember that of a module until the page is loaded anew. */
function tellUnloaded(error = new ServerError("This part of the page could not be loaded.")) {
  const again = () => ask("/ui/", { known: false }).then(() => location.reload(), tellUnloaded);
  fill(view, element("h1", {}, "Retinue"), trouble(error, again));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function askForToken(reason) {
  tellReason(reason);
  // Somebody may be writing in it.
  if (dialog.open) return;
  field.value = "";
  dialog.showModal();
  field.focus();
}

function tellReason(reason) {
  document.getElementById("token-reason").textContent = reason;
}

function answerToken(value) {
  try {
    token.set(value);
  } catch (error) {
    tellReason(error.message);
    return;
  }
  dialog.close();
  show();
}

document
  .getElementById("token")
  .addEventListener("click", () => askForToken(token.get() ? "There is one in this tab." : ""));
document.getElementById("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (field.value.trim()) answerToken(field.value.trim());
});
document.getElementById("token-forget").addEventListener("click", () => answerToken(""));
document.getElementById("token-cancel").addEventListener("click", () => dialog.close());
refusals.addEventListener("refused", (event) => askForToken(event.detail.message));
// The browser would take the link's fragment for a view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  view.focus();
});
window.addEventListener("hashchange", () => {
  show();
  view.focus({ preventScroll: true });
});

show();
facts().then(
  ({ tokens }) => (document.getElementById("token").hidden = !tokens),
  // The view says that the server does not answer.
  () => {},
);
