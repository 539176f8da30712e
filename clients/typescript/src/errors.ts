/**
 * What can go wrong in a call, as one tree.
 *
 *     RetinueError                      code                 when
 *     ├── ImageError                    INVALID_ARGUMENT     this one image has no answer
 *     ├── InvalidRequestError           INVALID_ARGUMENT     an option out of its range, no images
 *     │   └── RequestTooLargeError      INVALID_ARGUMENT     more bytes than the server accepts
 *     ├── ModelNotFoundError            NOT_FOUND            no such model or version
 *     ├── WrongTaskError                FAILED_PRECONDITION  the model answers another question
 *     ├── OverloadedError               RESOURCE_EXHAUSTED   more work than can be done in time
 *     ├── UnavailableError              UNAVAILABLE          loading, draining, connection lost
 *     │   └── ServerUnreachableError    UNAVAILABLE          nothing answers at the address
 *     ├── DeadlineExceededError         DEADLINE_EXCEEDED    no answer within the time given
 *     ├── AuthenticationError           UNAUTHENTICATED      or PERMISSION_DENIED
 *     └── ServerError                   INTERNAL             and every other code
 *         └── ResponseError             INTERNAL             an answer against the protocol
 *
 * An `ImageError` is thrown where the call was about one image, and given as a value in the image's place where it was
 * about several. A mistake in the calling code, such as an object that is no image, is a `TypeError`. A call that its
 * `AbortSignal` ends is rejected with the signal's reason.
 */

import type { status } from "@grpc/grpc-js";

/** The name of a gRPC status code. */
export type StatusCode = keyof typeof status;

/** What an error says besides its message. */
export interface ErrorFields {
  readonly code?: StatusCode | undefined;
  readonly reason?: string | undefined;
  readonly retryAfterSeconds?: number | undefined;
  readonly cause?: unknown;
}

/** Base of everything that a call throws because of what it met, not because of how it was written. */
export class RetinueError extends Error {
  /** The gRPC status code. */
  readonly code: StatusCode;
  /** Stable upper-case identifier, such as "QUEUE_FULL". For programs. */
  readonly reason: string;
  /** After which time the server advises to try again, or undefined where it gave no advice. */
  readonly retryAfterSeconds: number | undefined;

  /** The code and the reason of errors of this class that name none. */
  protected static readonly usual: readonly [StatusCode, string] = ["INTERNAL", "INTERNAL"];

  constructor(message: string, fields: ErrorFields = {}) {
    super(message, fields.cause === undefined ? {} : { cause: fields.cause });
    const [code, reason] = new.target.usual;
    this.name = new.target.name;
    this.code = fields.code ?? code;
    this.reason = fields.reason ?? reason;
    this.retryAfterSeconds = fields.retryAfterSeconds;
  }

  /** The error as values that JSON knows. */
  toJSON(): object {
    const { code, reason, message, retryAfterSeconds } = this;
    return { code, reason, message, retryAfterSeconds: retryAfterSeconds ?? null };
  }
}

/** One image has no answer; the others of its call have theirs. */
export class ImageError extends RetinueError {
  protected static override readonly usual = ["INVALID_ARGUMENT", "IMAGE_INVALID"] as const;
  /** Which image: its path, or a description such as "1024 bytes". The message begins with it. */
  readonly source: string;

  constructor(message: string, fields: ErrorFields & { readonly source?: string } = {}) {
    super(fields.source ? `${fields.source}: ${message}` : message, fields);
    this.source = fields.source ?? "";
  }
}

/** The request as a whole cannot be answered, whatever the state of the server. */
export class InvalidRequestError extends RetinueError {
  protected static override readonly usual: readonly [StatusCode, string] = [
    "INVALID_ARGUMENT",
    "INVALID_REQUEST",
  ];
}

/**
 * A request has more bytes than the server accepts.
 *
 * The code is RESOURCE_EXHAUSTED where gRPC stopped the message before the server saw it.
 */
export class RequestTooLargeError extends InvalidRequestError {
  protected static override readonly usual = ["INVALID_ARGUMENT", "REQUEST_TOO_LARGE"] as const;
}

/** No model of that name, or not in that version. */
export class ModelNotFoundError extends RetinueError {
  protected static override readonly usual = ["NOT_FOUND", "MODEL_NOT_FOUND"] as const;
}

/** The model exists but answers another kind of question. */
export class WrongTaskError extends RetinueError {
  protected static override readonly usual = ["FAILED_PRECONDITION", "WRONG_TASK"] as const;
}

/** The server has more work than it can finish in time; `retryAfterSeconds` says when to come back. */
export class OverloadedError extends RetinueError {
  protected static override readonly usual = ["RESOURCE_EXHAUSTED", "QUEUE_FULL"] as const;
}

/** The server takes no work at the moment, or the connection to it was lost during the call. */
export class UnavailableError extends RetinueError {
  protected static override readonly usual: readonly [StatusCode, string] = ["UNAVAILABLE", "UNAVAILABLE"];
}

/** Nothing answers at the address. */
export class ServerUnreachableError extends UnavailableError {
  protected static override readonly usual = ["UNAVAILABLE", "SERVER_UNREACHABLE"] as const;
}

/** No answer came within the time given. */
export class DeadlineExceededError extends RetinueError {
  protected static override readonly usual = ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"] as const;
}

/** The server wants credentials, or other ones than it was given. */
export class AuthenticationError extends RetinueError {
  protected static override readonly usual = ["UNAUTHENTICATED", "UNAUTHENTICATED"] as const;
}

/** The server failed, or is not a Retinue server. */
export class ServerError extends RetinueError {}

/**
 * An answer that does not hold what the protocol promises.
 *
 * Where it is that of one image of several, there is an `ImageError` of this reason in the image's place.
 */
export class ResponseError extends ServerError {
  protected static override readonly usual = ["INTERNAL", "RESPONSE_INVALID"] as const;
}
