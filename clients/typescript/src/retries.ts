/** When a request that got no answer is sent again. */

import { OverloadedError, type RetinueError, UnavailableError } from "./errors.js";

/**
 * When a request is sent again: only after what may get better, and never later than its deadline.
 *
 * That is what the server says may be tried later (RetryInfo: QUEUE_FULL, TOO_MANY_CALLS, ...), what another server may
 * take (DRAINING, LOADING, ...), and a connection that was lost or did not come about. The deadline of a call is that of
 * all its tries together.
 */
export interface Retries {
  /** How often one request is sent at most, at least 1, which means never again. Left out means 5. */
  readonly maxAttempts?: number | undefined;
  /**
   * About how long to wait before the second time, twice as long before the third, and so on; as long as the server
   * advises where that is longer. Left out means 0.05.
   */
  readonly firstDelaySeconds?: number | undefined;
  /**
   * At most so long; who is told to come back later than this is told so with an error. Left out means 5.
   */
  readonly longestDelaySeconds?: number | undefined;
  /**
   * So many requests may be sent again at once; a client has this many tokens, and each time takes one, but where the
   * request had reached nobody. Left out means 100.
   */
  readonly burst?: number | undefined;
  /**
   * What each answer adds to them: of the requests of a server that goes on failing, only so large a share comes twice.
   * Left out means 0.1.
   */
  readonly tokensPerAnswer?: number | undefined;
}

const DEFAULTS = {
  maxAttempts: 5,
  firstDelaySeconds: 0.05,
  longestDelaySeconds: 5,
  burst: 100,
  tokensPerAnswer: 0.1,
};
// What a second try meets again: who was asked is no Retinue server, or this client is being closed.
const LASTING = ["TLS_FAILED", "CANCELLED"];
// No server has done anything for a request that failed so.
const REACHED_NOBODY = ["SERVER_UNREACHABLE", "NOT_READY"];
// A request that ends one server must not end them all.
const MOST_LOST = 2;

/** How one request fared so far. */
export interface Tries {
  /** How often it was sent. */
  attempts: number;
  /** How often the connection was lost over it. */
  lost: number;
}

/**
 * What decides about sending again, for all requests of a client together.
 *
 * What is sent again is what a server could not do the first time: without a bound, clients would answer its overload with
 * several times as many requests.
 */
export class RetryBudget {
  readonly #retries: Required<{ [Name in keyof Retries]: number }>;
  #tokens: number;

  /** @throws TypeError A number of `retries` makes no sense. */
  constructor(retries: Retries = {}) {
    const given = Object.entries(retries).filter(([, value]) => value !== undefined);
    this.#retries = { ...DEFAULTS, ...Object.fromEntries(given) };
    if (!(this.#retries.maxAttempts >= 1)) throw new TypeError("maxAttempts must be at least 1.");
    if (!Object.values(this.#retries).every((value) => value >= 0)) {
      throw new TypeError("Delays, burst and tokensPerAnswer must not be negative.");
    }
    this.#tokens = this.#retries.burst;
  }

  /** Takes note that a request was answered. */
  earn(): void {
    this.#tokens = Math.min(this.#tokens + this.#retries.tokensPerAnswer, this.#retries.burst);
  }

  /**
   * How long to wait before a request is sent again, or undefined where it is not.
   *
   * @param error What became of it the last time.
   * @param tries How often it was sent; a connection that was lost is added.
   * @param leftSeconds Until its deadline.
   * @param random In [0, 1): a part of the delay is random, so that many clients do not come back at once.
   */
  delaySeconds(
    error: RetinueError,
    tries: Tries,
    leftSeconds: number,
    random = Math.random(),
  ): number | undefined {
    const { maxAttempts, firstDelaySeconds, longestDelaySeconds } = this.#retries;
    if (tries.attempts >= maxAttempts || !mayGetBetter(error)) return undefined;
    if (error.reason === "CONNECTION_LOST" && ++tries.lost >= MOST_LOST) return undefined;
    const backoff = Math.min(firstDelaySeconds * 2 ** (tries.attempts - 1), longestDelaySeconds);
    // A server that says "soon" each time is not asked more and more often for that.
    const least = Math.max(backoff, error.retryAfterSeconds ?? 0);
    const seconds = least * (1 + random / 4);
    if (least > longestDelaySeconds || seconds >= leftSeconds) return undefined;
    if (REACHED_NOBODY.includes(error.reason)) return seconds;
    // The sum of ten tenths is a little less than one.
    if (this.#tokens < 1 - 1e-9) return undefined;
    this.#tokens -= 1;
    return seconds;
  }
}

/** Whether the same request may be answered another time, or by another server. */
function mayGetBetter(error: RetinueError): boolean {
  if (error instanceof OverloadedError) return error.retryAfterSeconds !== undefined;
  return error instanceof UnavailableError && !LASTING.includes(error.reason);
}
