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

let unstored = "";

/** The token, kept in this tab only, also where it is closed and opened again; empty where there is none. */
export const token = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? unstored;
    } catch {
      return unstored;
    }
  },
  /** @throws {Error} It cannot be one, and why. */
  set(value) {
    if (!/^[\x21-\x7e]*$/.test(value))
      throw new Error("This is no token: tokens are of letters, digits and signs of ASCII, without spaces.");
    unstored = value;
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // People may forbid pages to store anything; it then lasts until the page is loaded anew.
    }
  },
};

/** Told of each request that the server refuses for want of a token, or of another one: an EventTarget. */
export const refusals = new EventTarget();

/**
 * Asks the server.
 *
 * @param {string} path From the root.
 * @param {RequestInit & {quiet: boolean, known: boolean}} options As of fetch; with `quiet` nobody is asked for another
 *     token, and without `known` none is sent.
 * @returns {Promise<Response>} Its answer, whose status is that of a success.
 * @throws {ServerError}
 */
export async function ask(path, { quiet = false, known = true, ...options } = {}) {
  const headers = new Headers(options.headers);
  const sent = known ? token.get() : "";
  if (sent) headers.set("authorization", `Bearer ${sent}`);
  let response;
  try {
    response = await fetch(new URL(`..${path}`, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw silence();
  }
  if (response.ok) return response;
  const told = await fault(response);
  // There may be another token by now.
  if (!quiet && sent === token.get() && (response.status === 401 || told.reason === "SCOPE_MISSING")) {
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

let answer;

/** What the server says of itself to everybody: its gRPC port, and what callers need. */
export function facts() {
  answer ??= ask("/ui/server.json", { known: false }).then((response) => response.json());
  // What failed may be asked again.
  answer.catch(() => {
    answer = undefined;
  });
  return answer;
}
