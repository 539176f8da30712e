/** What `classify` answers. */

import { ResponseError } from "./errors.js";
import type { ClassifyResponse, Classification as Message } from "./gen/retinue/v1/vision_service_pb.js";
import type { Timing } from "./timing.js";

/** A class and how sure the model is of it. */
export interface ClassScore {
  /** The class, counted from 0. */
  readonly classId: number;
  /** The class's name. */
  readonly label: string;
  /** Probability, in [0, 1]. */
  readonly score: number;
}

/** The most probable classes of one image. */
export class Classification implements Iterable<ClassScore> {
  /** Sorted by descending score. Empty where `minScore` left none. */
  readonly classes: readonly ClassScore[];
  /** The model that answered. */
  readonly model: string;
  /** Its version. */
  readonly version: number;
  /** Where the time went. */
  readonly timing: Timing;
  /**
   * Where the most probable class is seen: a greyscale PNG file that covers the whole image, upright, in its size or
   * evenly smaller. 255 is where the image speaks for the class most. Undefined where it was not asked for.
   */
  readonly encodedHeatmap: Uint8Array | undefined;

  constructor(fields: {
    classes: readonly ClassScore[];
    model: string;
    version: number;
    timing: Timing;
    encodedHeatmap?: Uint8Array | undefined;
  }) {
    this.classes = fields.classes;
    this.model = fields.model;
    this.version = fields.version;
    this.timing = fields.timing;
    this.encodedHeatmap = fields.encodedHeatmap;
  }

  /** The most probable class. Undefined where `minScore` left none. */
  get best(): ClassScore | undefined {
    return this.classes[0];
  }

  [Symbol.iterator](): Iterator<ClassScore> {
    return this.classes[Symbol.iterator]();
  }

  /** The result as values that JSON knows; a heatmap stays a PNG, in base64. */
  toJSON(): object {
    const { model, version, classes, timing, encodedHeatmap } = this;
    const heatmap = encodedHeatmap && {
      format: "png",
      base64: Buffer.from(encodedHeatmap).toString("base64"),
    };
    return { model, version, classes, timing, ...(heatmap && { heatmap }) };
  }
}

/**
 * Reads a result from the wire.
 *
 * @throws ResponseError It lacks what was asked for, a class id is none, or a score is not in [0, 1].
 */
export function readClassification(
  message: Message,
  timing: Timing,
  response: ClassifyResponse,
  asked: { readonly heatmap: boolean },
): Classification {
  if (asked.heatmap && message.heatmap.length === 0) {
    throw new ResponseError("The server answered without a heatmap: it is older than this client.");
  }
  return new Classification({
    classes: message.classes.map(readClassScore),
    model: response.model,
    version: response.version,
    timing,
    encodedHeatmap: message.heatmap.length > 0 ? message.heatmap : undefined,
  });
}

/**
 * Reads a class and its score from the wire.
 *
 * @throws ResponseError One of them is none.
 */
export function readClassScore({ classId, label, score }: ClassScore): ClassScore {
  if (classId < 0) {
    throw new ResponseError(`The server answered the class id ${classId}, which no model has.`);
  }
  // A comparison with NaN is false.
  if (!(score >= 0 && score <= 1)) {
    throw new ResponseError(`The server answered the score ${score}, which is not in [0, 1].`);
  }
  return { classId, label, score };
}
