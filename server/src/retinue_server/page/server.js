/** The server that this page comes from: its calls, and the token that they bring. */

const KEY = "retinue-token";

/** What the server, or the way to it, has against a request. */
export class ServerError extends Error {
  /**
   * @param {string} message For people.
   * @param {string} reason Stable, such as "MODEL_NOT_FOUND"; empty where there was no answer.
   * @param {number} status Of HTTP; 0 where there was no answer.
   */
  constructor(message, reason = "", status = 0) {
    super(message);
    this.reason = reason;
    this.status = status;
  }
}

/** The token, kept in this tab only; empty where there is none. */
export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Told of each request that the server refuses for want of a token, or of another one: an EventTarget. */
export const refusals = new EventTarget();

/**
 * Asks the server.
 *
 * @param {string} path From the root.
 * @param {RequestInit & {quiet: boolean}} options As of fetch; with `quiet` nobody is asked for another token.
 * @returns {Promise<Response>} Its answer, whose status is that of a success.
 * @throws {ServerError}
 */
export async function ask(path, { quiet = false, ...options } = {}) {
  const headers = new Headers(options.headers);
  if (token.get()) headers.set("authorization", `Bearer ${token.get()}`);
  let response;
  try {
    response = await fetch(new URL(`..${path}`, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw silence();
  }
  if (response.ok) return response;
  const told = await fault(response);
  if (!quiet && (response.status === 401 || told.reason === "SCOPE_MISSING")) {
    refusals.dispatchEvent(new CustomEvent("refused", { detail: told }));
  }
  throw told;
}

/** That there was no answer, or not all of it. */
export function silence() {
  return new ServerError("The server does not answer; see whether it runs, and try again.");
}

async function fault(response) {
  const told = await response.json().catch(() => ({}));
  // Where no image has a result, the reply has the first one's error.
  const error = told.outcomes?.[0]?.error ?? told;
  const text = error.error ?? `The server answered with ${response.status}.`;
  return new ServerError(sentence(text), error.reason ?? "", response.status);
}

/** A message of the server as a sentence. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The models that are served, as ListModels says. */
export async function listModels() {
  return (await (await ask("/v1/models")).json()).models;
}

let known;

/** What the server says of itself to everybody: its gRPC port, and what callers need. */
export function facts() {
  known ??= ask("/ui/server.json").then((response) => response.json());
  // What failed may be asked again.
  known.catch(() => {
    known = undefined;
  });
  return known;
}
