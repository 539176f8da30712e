/** A connection to a server, and what of gRPC a caller need not know. */

import { type DescMethodUnary, fromBinary, type Message } from "@bufbuild/protobuf";
import {
  type ChannelOptions,
  Client,
  type ClientUnaryCall,
  connectivityState,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";

import { isLoopback } from "./address.js";
import type { Security } from "./security.js";

// Where DNS names several servers they take turns, and what is lost is tried again here and not inside of gRPC.
const SERVICE_CONFIG = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });

// Class maps of large images are large, and what may be sent is the server's to say. gRPC's own longest wait before it
// connects again is two minutes, which is longer than a server takes to start.
const OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 2000,
  // A server that vanished without a word, its machine with it, would otherwise be waited for as long as TCP does, which is
  // a quarter of an hour. Servers allow a ping every 10 seconds (--min-ping-seconds).
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.service_config": SERVICE_CONFIG,
  "grpc.service_config_disable_resolution": 1,
  "grpc.enable_retries": 0,
};

/** What goes with a request. */
export interface SendOptions {
  readonly metadata: Readonly<Record<string, string>>;
  /** Seconds from now; left out means as long as it takes. */
  readonly timeoutSeconds: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/** A connection to a server; it comes about with the first request. */
export class Connection {
  /** The server's gRPC target. */
  readonly target: string;
  readonly #client: Client;
  readonly #token: string;
  readonly #underWay = new Set<ClientUnaryCall>();

  constructor(target: string, security: Security) {
    this.target = target;
    // A server of this machine is never asked through the proxy that http_proxy names, which would not find it.
    const options = isLoopback(target) ? { ...OPTIONS, "grpc.enable_http_proxy": 0 } : OPTIONS;
    this.#client = new Client(target, security.credentials, options);
    this.#token = security.token;
  }

  /**
   * Sends a request and gives its answer.
   *
   * @throws ServiceError Whatever gRPC says of a call that failed.
   */
  send(method: DescMethodUnary, request: Uint8Array, options: SendOptions): Promise<Message> {
    const { timeoutSeconds, signal } = options;
    const deadline = timeoutSeconds === undefined ? Infinity : Date.now() + timeoutSeconds * 1000;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const call = this.#client.makeUnaryRequest(
        `/${method.parent.typeName}/${method.name}`,
        (packed: Uint8Array) => Buffer.from(packed.buffer, packed.byteOffset, packed.length),
        (packed: Buffer) => fromBinary(method.output, plain(packed)),
        request,
        this.#metadata(options.metadata),
        { deadline },
        (error: ServiceError | null, response?: Message) => {
          this.#underWay.delete(call);
          signal?.removeEventListener("abort", cancel);
          if (response === undefined) reject(error);
          else resolve(response);
        },
      );
      this.#underWay.add(call);
      function cancel(): void {
        reject(signal?.reason);
        call.cancel();
      }
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  /** Whether it did not come about when it was last tried. */
  get isBroken(): boolean {
    return this.#client.getChannel().getConnectivityState(false) === connectivityState.TRANSIENT_FAILURE;
  }

  /** Ends the connection; calls that are under way fail. */
  close(): void {
    // gRPC itself would let them go on.
    for (const call of this.#underWay) call.cancel();
    this.#client.close();
  }

  #metadata(entries: Readonly<Record<string, string>>): Metadata {
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(entries)) metadata.set(name, value);
    if (this.#token !== "") metadata.set("authorization", `Bearer ${this.#token}`);
    return metadata;
  }
}

/** Bytes as what they are: slices of a Buffer are none of a Uint8Array. */
function plain(bytes: Buffer): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}
