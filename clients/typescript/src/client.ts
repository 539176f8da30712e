/** The client. */

import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { ServiceError } from "@grpc/grpc-js";

import { resolveAddresses } from "./address.js";
import { type Call, classifyCall, detectCall, pack, segmentCall, versionFields } from "./calls.js";
import type { Classification } from "./classification.js";
import { Connection } from "./connection.js";
import type { Detections } from "./detections.js";
import { DeadlineExceededError, type ImageError, RetinueError, UnavailableError } from "./errors.js";
import { VisionService } from "./gen/retinue/v1/vision_service_pb.js";
import type { ImageSource } from "./images.js";
import { asImages, type Images, Job, type Request, type RequestLimits } from "./job.js";
import { type ModelInfo, readModelInfo, type Task, taskNumber } from "./models.js";
import type { CallOptions, ClassifyOptions, DetectOptions, SegmentOptions, WaitOptions } from "./options.js";
import { type Retries, RetryBudget } from "./retries.js";
import { resolveSecurity, type Tls } from "./security.js";
import type { Segmentation } from "./segmentation.js";
import { clientClosed, errorFromCall } from "./status.js";
import { Turns } from "./turns.js";

const DEFAULT_TIMEOUT_SECONDS = 60;
const DEFAULT_MAX_REQUEST_IMAGES = 32;
const DEFAULT_MAX_REQUEST_BYTES = 16 << 20;
// One request is computed while the next is read and sent.
const REQUESTS_IN_FLIGHT = 2;
// A deadline of decades is none.
const LONGEST_DEADLINE_SECONDS = 1e9;

/** How a client connects, and what it limits. */
export interface ClientOptions {
  /** How long one request may take where a call does not say; Infinity means as long as it takes. Left out means 60. */
  readonly timeoutSeconds?: number | undefined;
  /** A longer list of images becomes several requests. Left out means 32. */
  readonly maxRequestImages?: number | undefined;
  /** So does a list of more bytes than this. Left out means 16 MiB. */
  readonly maxRequestBytes?: number | undefined;
  /** What is sent again, and when. */
  readonly retries?: Retries | undefined;
  /**
   * How the connection is encrypted. Left out means what RETINUE_TLS_CA, RETINUE_CLIENT_CERTIFICATE and
   * RETINUE_CLIENT_KEY name, or that it is not.
   */
  readonly tls?: Tls | undefined;
  /**
   * What says who calls. Left out means the environment variable RETINUE_TOKEN, or nothing. Without TLS it is sent to
   * this machine only.
   */
  readonly token?: string | undefined;
}

/**
 * Asks a Retinue server about images. One client, one connection, any number of calls at once.
 *
 * An image is a path, the bytes of an image file, or pixels as `{data, width, height}`. A call about one image gives its
 * result and throws `ImageError` where there is none. A call about several gives an array with, for each image in order, its
 * result or its `ImageError` as a value. Whatever concerns the call as a whole is thrown: see the tree in `RetinueError`'s
 * module.
 */
export class Client implements Disposable {
  readonly #connections: readonly Connection[];
  readonly #turns: Turns;
  readonly #budget: RetryBudget;
  readonly #timeoutSeconds: number;
  readonly #limits: RequestLimits;
  readonly #closing = new AbortController();

  /**
   * @param address "HOST:PORT"; several servers, separated by commas, have turns, as have those of one name. Left out
   *     means the environment variable RETINUE_SERVER, or localhost:8001.
   * @throws TypeError The address or a limit makes no sense, a file cannot be read, or the token would be sent without
   *     TLS.
   */
  constructor(address?: string, options: ClientOptions = {}) {
    const maxImages = options.maxRequestImages ?? DEFAULT_MAX_REQUEST_IMAGES;
    const maxBytes = options.maxRequestBytes ?? DEFAULT_MAX_REQUEST_BYTES;
    if (!(maxImages >= 1 && maxBytes >= 1)) {
      throw new TypeError("maxRequestImages and maxRequestBytes must be at least 1.");
    }
    this.#limits = { maxImages, maxBytes };
    this.#timeoutSeconds = options.timeoutSeconds ?? DEFAULT_TIMEOUT_SECONDS;
    this.#budget = new RetryBudget(options.retries);
    const targets = resolveAddresses(address);
    const security = resolveSecurity(targets, options.tls, options.token);
    this.#connections = targets.map((target) => new Connection(target, security));
    this.#turns = new Turns(targets.length);
  }

  /** Where the server is. */
  get address(): string {
    return this.#connections.map(({ target }) => target).join();
  }

  /** Says which classes an image shows. */
  classify(image: ImageSource, options?: ClassifyOptions): Promise<Classification>;
  /** Says which classes each of several images shows. */
  classify(images: Images, options?: ClassifyOptions): Promise<(Classification | ImageError)[]>;
  async classify(images: ImageSource | Images, options: ClassifyOptions = {}) {
    return this.#ask(classifyCall(options), images, options);
  }

  /** Finds the objects in an image. */
  detect(image: ImageSource, options?: DetectOptions): Promise<Detections>;
  /** Finds the objects in each of several images. */
  detect(images: Images, options?: DetectOptions): Promise<(Detections | ImageError)[]>;
  async detect(images: ImageSource | Images, options: DetectOptions = {}) {
    return this.#ask(detectCall(options), images, options);
  }

  /** Gives each pixel of an image a class. */
  segment(image: ImageSource, options?: SegmentOptions): Promise<Segmentation>;
  /** Gives each pixel of each of several images a class. */
  segment(images: Images, options?: SegmentOptions): Promise<(Segmentation | ImageError)[]>;
  async segment(images: ImageSource | Images, options: SegmentOptions = {}) {
    return this.#ask(segmentCall(options), images, options);
  }

  /**
   * The models that are served, by name and then version, newest first.
   *
   * @param options `task`: only models of this task; left out means all.
   */
  async listModels(options: WaitOptions & { readonly task?: Task | undefined } = {}): Promise<ModelInfo[]> {
    const request = { task: taskNumber(options.task) };
    const { models } = await this.#invoke(VisionService.method.listModels, request, options);
    return models.map(readModelInfo);
  }

  /**
   * One model, in the version or by the label that is named, or in the one that most requests get.
   *
   * @throws ModelNotFoundError It is not served.
   */
  async getModel(
    name: string,
    options: WaitOptions & { readonly version?: number | string | undefined } = {},
  ): Promise<ModelInfo> {
    const request = { model: name, ...versionFields(options.version) };
    const { model } = await this.#invoke(VisionService.method.getModel, request, options);
    if (model === undefined) throw new RetinueError("The server answered without a model.");
    return readModelInfo(model);
  }

  /** Ends the connection; calls that are under way fail. Closing twice is fine. */
  close(): void {
    this.#closing.abort();
    for (const connection of this.#connections) connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  async #ask<Result>(call: Call<Result>, images: ImageSource | Images, options: CallOptions) {
    const [many, isOne] = asImages(images);
    const job = new Job(call, many, this.#limits);
    const stop = new AbortController();
    const { signal } = stop;
    const cancel = () => stop.abort(options.signal?.reason);
    if (options.signal?.aborted) cancel();
    options.signal?.addEventListener("abort", cancel, { once: true });
    const underWay: Promise<void>[] = [];
    const requests = job.requests();
    try {
      for (;;) {
        // Whoever gives the images may pause for as long as they like.
        const { value: request } = await unlessAborted(requests.next(), signal);
        if (request === undefined) break;
        const settled = this.#settle(job, call, request, { ...options, signal });
        // It is waited for in its turn; one that fails before is no unhandled rejection.
        settled.catch(() => undefined);
        underWay.push(settled);
        if (underWay.length >= REQUESTS_IN_FLIGHT) await underWay.shift();
      }
      for (const settled of underWay) await settled;
    } finally {
      // It ends when whoever gives the images does; that is not waited for.
      requests.return(undefined).catch(() => undefined);
      stop.abort();
      options.signal?.removeEventListener("abort", cancel);
    }
    return isOne ? job.outcome() : job.outcomes();
  }

  /** Waits for the answer to a request and hands it to its job. */
  async #settle<Result>(
    job: Job<Result>,
    call: Call<Result>,
    request: Request,
    options: CallOptions,
  ): Promise<void> {
    let response: unknown;
    try {
      response = await this.#send(call.method, call.pack(request.images), call.metadata, options);
    } catch (error) {
      if (!(error instanceof RetinueError)) throw error;
      job.refuse(request, error);
      return;
    }
    job.accept(request, response);
  }

  async #invoke<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    request: MessageInitShape<Input>,
    options: WaitOptions,
  ): Promise<MessageShape<Output>> {
    const answer = await this.#send(method, pack(method.input, request), {}, options);
    return answer as MessageShape<Output>;
  }

  /** Sends a request, again where that may help, until it is answered or its time is up. */
  async #send(
    method: DescMethodUnary,
    request: Uint8Array,
    metadata: Readonly<Record<string, string>>,
    { timeoutSeconds = this.#timeoutSeconds, signal }: WaitOptions,
  ): Promise<unknown> {
    const isEndless = timeoutSeconds > LONGEST_DEADLINE_SECONDS;
    const begun = performance.now();
    const leftSeconds = () => timeoutSeconds - (performance.now() - begun) / 1000;
    const tries = { attempts: 0, lost: 0 };
    if (this.#closed) throw new Error("The client is closed.");
    let place: number | undefined;
    for (;;) {
      // Another one than the last time.
      place = this.#turns.next(place, (one) => this.#connections[one]?.isBroken ?? false);
      const connection = this.#connections[place] as Connection;
      tries.attempts++;
      try {
        const given = isEndless ? undefined : leftSeconds();
        const answer = await connection.send(method, request, { metadata, timeoutSeconds: given, signal });
        this.#budget.earn();
        this.#turns.answered(place);
        return answer;
      } catch (error) {
        signal?.throwIfAborted();
        const limit = isEndless ? undefined : timeoutSeconds;
        const told = errorFromCall(error as ServiceError, connection.target, limit, this.#closed);
        if (told instanceof UnavailableError) this.#turns.setAside(place);
        // A refusal is an answer, too.
        else if (!(told instanceof DeadlineExceededError)) this.#turns.answered(place);
        const seconds = this.#budget.delaySeconds(told, tries, leftSeconds());
        if (seconds === undefined) throw told;
        await pause(seconds, [this.#closing.signal, ...(signal ? [signal] : [])]);
        signal?.throwIfAborted();
        if (this.#closed) throw clientClosed();
      }
    }
  }
}

/** Waits so long, or until one of the signals ends it. */
function pause(seconds: number, signals: readonly AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, seconds * 1000);
    for (const signal of signals) signal.addEventListener("abort", end);
    if (signals.some(({ aborted }) => aborted)) end();
  });
}

/** What is waited for, or the signal's reason as soon as there is one. */
function unlessAborted<Value>(waited: Promise<Value>, signal: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    if (signal.aborted) end();
    signal.addEventListener("abort", end, { once: true });
    waited.then(resolve, reject).finally(() => signal.removeEventListener("abort", end));
  });
}
