/** One call's images, cut into requests and put back together. It reads image files and does no other I/O. */

import type { Call } from "./calls.js";
import { ImageError, RequestTooLargeError, ResponseError, type RetinueError } from "./errors.js";
import type { Image } from "./gen/retinue/v1/image_pb.js";
import { describe, type ImageSource, isImageSource, readImage } from "./images.js";

/** How much goes into one request; a longer list of images becomes several. */
export interface RequestLimits {
  /** At most so many images. */
  readonly maxImages: number;
  /** At most so many bytes of image files and pixels, except where one image alone has more. */
  readonly maxBytes: number;
}

/** Some of a job's images, ready to be sent. */
export interface Request {
  readonly images: Image[];
  /** For each of its images, the place in the job. */
  readonly places: number[];
  /** For each of its images, which one it is. */
  readonly sources: string[];
  /** Bytes of image files and pixels. */
  sizeBytes: number;
}

/** Several images: whatever gives one after the other. */
export type Images = Iterable<ImageSource> | AsyncIterable<ImageSource>;

/**
 * Asks one question about some images, in requests that someone else sends.
 *
 * Images are read from disk only when the request that holds them is asked for, so that a long list of paths takes no
 * more memory than a few requests.
 */
export class Job<Result> {
  readonly #call: Call<Result>;
  readonly #images: Images;
  readonly #limits: RequestLimits;
  readonly #outcomes: (Result | ImageError)[] = [];

  constructor(call: Call<Result>, images: Images, limits: RequestLimits) {
    this.#call = call;
    this.#images = images;
    this.#limits = limits;
  }

  /**
   * The requests in order. An image that cannot be read has its ImageError at once and is in none.
   *
   * @throws TypeError One of the images is no image.
   */
  async *requests(): AsyncGenerator<Request> {
    let request = emptyRequest();
    let place = -1;
    for await (const source of this.#images) {
      place++;
      let read: [Image, number];
      try {
        read = await readImage(source);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        this.#outcomes[place] = error;
        continue;
      }
      const [image, sizeBytes] = read;
      if (request.places.length > 0 && request.sizeBytes + sizeBytes > this.#limits.maxBytes) {
        yield request;
        request = emptyRequest();
      }
      request.images.push(image);
      request.places.push(place);
      request.sources.push(describe(source));
      request.sizeBytes += sizeBytes;
      if (request.places.length === this.#limits.maxImages) {
        yield request;
        request = emptyRequest();
      }
    }
    if (request.places.length > 0) yield request;
  }

  /**
   * Takes the answer to a request.
   *
   * @throws ResponseError It does not fit the request.
   */
  accept(request: Request, response: unknown): void {
    const read = this.#call.read(response, request.images, request.sources);
    for (const [index, outcome] of read.entries()) this.#outcomes[request.places[index] as number] = outcome;
  }

  /** Takes the failure of a request: a value if only its one image can be at fault, else thrown. */
  refuse(request: Request, error: RetinueError): void {
    const [place, ...others] = request.places;
    if (!(error instanceof RequestTooLargeError) || place === undefined || others.length > 0) throw error;
    const { message, code, reason } = error;
    this.#outcomes[place] = new ImageError(message, {
      source: request.sources[0] as string,
      code,
      reason,
      cause: error,
    });
  }

  /** What became of each image, in order, once every request was answered. */
  outcomes(): (Result | ImageError)[] {
    return this.#outcomes;
  }

  /**
   * The result of a job of one image.
   *
   * @throws ImageError It has none.
   * @throws ResponseError What came does not hold what the protocol promises.
   */
  outcome(): Result {
    const outcome = this.#outcomes[0] as Result | ImageError;
    if (!(outcome instanceof ImageError)) return outcome;
    throw outcome.cause instanceof ResponseError ? outcome.cause : outcome;
  }
}

/**
 * The images of a call, and whether it was one image rather than a collection.
 *
 * @throws TypeError It is neither.
 */
export function asImages(images: ImageSource | Images): [images: Images, isOne: boolean] {
  if (isImageSource(images)) return [[images], true];
  if (typeof images === "object" && images !== null) {
    if (Symbol.iterator in images || Symbol.asyncIterator in images) return [images, false];
  }
  throw new TypeError(
    "That is no image: give a path, the bytes of an image file, pixels as {data, width, height}, or a list of these.",
  );
}

function emptyRequest(): Request {
  return { images: [], places: [], sources: [], sizeBytes: 0 };
}
