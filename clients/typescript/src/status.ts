/** What gRPC says of a call or an image that failed, as errors of this package. */

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { type ServiceError, status } from "@grpc/grpc-js";

import {
  AuthenticationError,
  DeadlineExceededError,
  type ErrorFields,
  ImageError,
  InvalidRequestError,
  ModelNotFoundError,
  OverloadedError,
  RequestTooLargeError,
  type RetinueError,
  ServerError,
  ServerUnreachableError,
  type StatusCode,
  UnavailableError,
  WrongTaskError,
} from "./errors.js";
import { ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.js";

const STATUS_DETAILS_KEY = "grpc-status-details-bin";

type ErrorClass = new (message: string, fields?: ErrorFields) => RetinueError;

const ERRORS_BY_CODE: Partial<Record<StatusCode, ErrorClass>> = {
  INVALID_ARGUMENT: InvalidRequestError,
  NOT_FOUND: ModelNotFoundError,
  RESOURCE_EXHAUSTED: OverloadedError,
  UNAVAILABLE: UnavailableError,
  DEADLINE_EXCEEDED: DeadlineExceededError,
  UNAUTHENTICATED: AuthenticationError,
  PERMISSION_DENIED: AuthenticationError,
};

const ERRORS_BY_REASON: Record<string, ErrorClass> = {
  REQUEST_TOO_LARGE: RequestTooLargeError,
  WRONG_TASK: WrongTaskError,
};

/**
 * Translates what gRPC reported of a whole call.
 *
 * @param error What the library gave.
 * @param address Which server was called.
 * @param timeoutSeconds The call's deadline, counted from its start, or undefined.
 * @param closed Whether the client was closed meanwhile.
 */
export function errorFromCall(
  error: ServiceError,
  address: string,
  timeoutSeconds: number | undefined,
  closed: boolean,
): RetinueError {
  const code = codeName(error.code);
  const text = error.details ?? "";
  const [packed] = error.metadata?.get(STATUS_DETAILS_KEY) ?? [];
  const { reason, retryAfterSeconds } = details(packed instanceof Uint8Array ? parse(packed) : undefined);
  if (reason === undefined) {
    if (code === "CANCELLED" && closed) return clientClosed(error);
    return errorOfTheTransport(code, text, address, timeoutSeconds, error);
  }
  const kind = ERRORS_BY_REASON[reason] ?? ERRORS_BY_CODE[code] ?? ServerError;
  return new kind(text, { code, reason, retryAfterSeconds, cause: error });
}

/** The error of a call that was under way when its client was closed. */
export function clientClosed(cause?: unknown): UnavailableError {
  return new UnavailableError("The call was cancelled because the client was closed.", {
    code: "CANCELLED",
    reason: "CANCELLED",
    cause,
  });
}

/** Translates the google.rpc.Status that stands in the place of one image's result. */
export function imageErrorFromStatus(message: Status, source: string): ImageError {
  return new ImageError(message.message, { source, code: codeName(message.code), ...details(message) });
}

function codeName(code: number): StatusCode {
  return (status[code] ?? "UNKNOWN") as StatusCode;
}

function parse(packed: Uint8Array): Status | undefined {
  try {
    return fromBinary(StatusSchema, packed);
  } catch {
    // What somebody on the way has damaged is as good as absent.
    return undefined;
  }
}

/** The reason (undefined without a google.rpc.ErrorInfo) and the advised delay of a Status. */
function details(message: Status | undefined): { reason?: string; retryAfterSeconds?: number } {
  const found: { reason?: string; retryAfterSeconds?: number } = {};
  for (const detail of message?.details ?? []) {
    try {
      const info = anyUnpack(detail, ErrorInfoSchema);
      if (info !== undefined) found.reason = info.reason;
      const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
      if (delay !== undefined) found.retryAfterSeconds = Number(delay.seconds) + delay.nanos / 1e9;
    } catch {
      // Likewise.
    }
  }
  return found;
}

/** An error for what gRPC itself reports, in words that help someone who never saw gRPC. */
function errorOfTheTransport(
  code: StatusCode,
  text: string,
  address: string,
  timeoutSeconds: number | undefined,
  cause: ServiceError,
): RetinueError {
  const lower = text.toLowerCase();
  if (code === "UNAVAILABLE") return noConnection(text, address, cause);
  if (code === "DEADLINE_EXCEEDED") {
    const within = timeoutSeconds === undefined ? "in time" : `within ${timeoutSeconds} s`;
    return new DeadlineExceededError(
      `${address} did not answer ${within}. Give it more time, or send fewer images at once.`,
      { cause },
    );
  }
  if (code === "CANCELLED") {
    return new UnavailableError(
      `The server at ${address} ended the connection during the call: it is shutting down, or something on the way ` +
        "cut the call off.",
      { reason: "CONNECTION_LOST", cause },
    );
  }
  if (code === "RESOURCE_EXHAUSTED" && lower.includes("larger than max")) {
    return new RequestTooLargeError(
      `${address} does not accept a message of this size (${text}). Send smaller images or fewer in one request ` +
        "(maxRequestBytes), or raise the server's message limit.",
      { code, reason: "MESSAGE_TOO_LARGE", cause },
    );
  }
  if (code === "UNIMPLEMENTED") {
    return new ServerError(
      `The server at ${address} speaks gRPC but does not have this call: it is another server, or another version of ` +
        "Retinue.",
      { code, reason: "UNIMPLEMENTED", cause },
    );
  }
  const kind = ERRORS_BY_CODE[code] ?? ServerError;
  return new kind(text || `${address} answered ${code}.`, { code, reason: code, cause });
}

/** Tells a server that is not there from one that is not Retinue and one that went away. */
function noConnection(text: string, address: string, cause: ServiceError): UnavailableError {
  const lower = text.toLowerCase();
  const trouble = troubleWithTls(lower);
  if (trouble !== "") {
    return new ServerUnreachableError(`${address} ${trouble}`, { reason: "TLS_FAILED", cause });
  }
  // Where the server gives no reason, and no system call has failed, this is all that gRPC says. A server that is shutting
  // down does so, too: it is no certain failure of TLS, and may get better.
  if (lower.includes("last error: failed to connect")) {
    return new ServerUnreachableError(
      `${address} closes connections before anything is said. It may speak TLS: name its authority with tls or ` +
        "RETINUE_TLS_CA; or want to see a certificate: name yours with tls, or RETINUE_CLIENT_CERTIFICATE and " +
        "RETINUE_CLIENT_KEY; or be shutting down.",
      { cause },
    );
  }
  if (lower.includes("protocol error") || lower.includes("http/1")) {
    return new ServerUnreachableError(
      `${address} does not speak gRPC. Is it Retinue's HTTP port? The gRPC port is 8001 by default.`,
      { cause },
    );
  }
  if (lower.includes("no connection established") || lower.includes("name resolution failed")) {
    const port = /:([0-9]+)$/.exec(address)?.[1];
    const onPort = port === undefined ? "" : ` --grpc-port ${port}`;
    return new ServerUnreachableError(
      `No Retinue server answers at ${address} (${causeOf(lower)}). Start one with ` +
        `\`retinue-server --models DIR${onPort}\`, or name another address with RETINUE_SERVER.`,
      { cause },
    );
  }
  return new UnavailableError(`The connection to ${address} was lost during the call (${text}).`, {
    reason: "CONNECTION_LOST",
    cause,
  });
}

/** What keeps a connection from being encrypted, and what to do; empty where something else is the matter. */
function troubleWithTls(lower: string): string {
  if (
    lower.includes("unable to") ||
    lower.includes("self-signed") ||
    lower.includes("self signed") ||
    lower.includes("altnames") ||
    lower.includes("certificate has expired")
  ) {
    return (
      "shows a certificate that this client does not trust. Name the authority that has signed it with tls or " +
      "RETINUE_TLS_CA, and the server as the certificate names it."
    );
  }
  if (lower.includes("wrong version number") || lower.includes("packet length too long")) {
    return "does not speak TLS. Leave tls and RETINUE_TLS_CA away, or start it with --tls-certificate.";
  }
  return "";
}

/** Why no connection came about, in two or three words. */
function causeOf(lower: string): string {
  const causes: readonly (readonly [sign: string, words: string])[] = [
    ["refused", "connection refused"],
    ["name resolution failed", "unknown host name"],
    ["timed out", "no reply from the host"],
    ["timeout", "no reply from the host"],
    ["unreach", "network unreachable"],
  ];
  return causes.find(([sign]) => lower.includes(sign))?.[1] ?? "no connection";
}
