/** The page's frame: which view is shown, and the token where the server wants one. */

import { element, fill } from "./elements.js";
import { facts, refusals, token } from "./server.js";

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
  const { open, title } = await VIEWS[shown]();
  if (mine !== turn) return;
  document.title = `${title}: Retinue`;
  const place = element("div", { class: `view ${shown}` });
  fill(view, place);
  leave = open(place, rest) ?? (() => {});
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function askForToken(reason) {
  document.getElementById("token-reason").textContent = reason;
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
}

function answerToken(value) {
  token.set(value);
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
