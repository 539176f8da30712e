/** What `detect` answers. */

import { type ClassScore, readClassScore } from "./classification.js";
import { ResponseError } from "./errors.js";
import type { Image } from "./gen/retinue/v1/image_pb.js";
import type {
  DetectionList,
  Detection as DetectionMessage,
  DetectResponse,
} from "./gen/retinue/v1/vision_service_pb.js";
import { RleMask } from "./masks.js";
import { checkSize } from "./size.js";
import type { Timing } from "./timing.js";

/** A named point of an object. */
export interface Keypoint {
  /** Such as "left_shoulder". */
  readonly name: string;
  /** To the right, in the original image's pixels. */
  readonly x: number;
  /** Down, likewise. */
  readonly y: number;
  /** How sure the network is of it: its own score, of any range, higher is surer. */
  readonly score: number;
}

/** Left, upper, right and lower edge in the original image's pixels. */
export type Box = readonly [xMin: number, yMin: number, xMax: number, yMax: number];

/**
 * One object in an image.
 *
 * The box is in the original image's pixels: origin in the top left corner, x to the right, y down, continuous coordinates
 * (the image spans 0 to its width), clipped to the image.
 */
export interface Detection {
  readonly box: Box;
  /** Confidence, in [0, 1]. */
  readonly score: number;
  /** The class, counted from 0. */
  readonly classId: number;
  /** The class's name. */
  readonly label: string;
  /** Which pixels of the image show it, where masks were asked for. */
  readonly mask?: RleMask;
  /** Its keypoints, where the model finds such; else empty. */
  readonly keypoints: readonly Keypoint[];
  /** What the classifier says of it that was asked (`classifyWith`), best first; else empty. */
  readonly classes: readonly ClassScore[];
}

/** The objects found in one image. */
export class Detections implements Iterable<Detection> {
  /** The objects, sorted by descending score. */
  readonly detections: readonly Detection[];
  /** Width in pixels of the image as a person sees it, which is the frame of the boxes. */
  readonly imageWidth: number;
  /** Its height. */
  readonly imageHeight: number;
  /** The model that answered. */
  readonly model: string;
  /** Its version. */
  readonly version: number;
  /** Where the time went. */
  readonly timing: Timing;
  /** The classifier that was asked. Empty where none was. */
  readonly classifier: string;
  /** Its version, 0 where none was asked. */
  readonly classifierVersion: number;

  constructor(fields: {
    detections: readonly Detection[];
    imageWidth: number;
    imageHeight: number;
    model: string;
    version: number;
    timing: Timing;
    classifier: string;
    classifierVersion: number;
  }) {
    this.detections = fields.detections;
    this.imageWidth = fields.imageWidth;
    this.imageHeight = fields.imageHeight;
    this.model = fields.model;
    this.version = fields.version;
    this.timing = fields.timing;
    this.classifier = fields.classifier;
    this.classifierVersion = fields.classifierVersion;
  }

  /** How many there are. */
  get length(): number {
    return this.detections.length;
  }

  [Symbol.iterator](): Iterator<Detection> {
    return this.detections[Symbol.iterator]();
  }
}

/**
 * Reads a result from the wire.
 *
 * @throws ResponseError It lacks what was asked for, or cannot be in the image that was sent.
 */
export function readDetections(
  message: DetectionList,
  timing: Timing,
  response: DetectResponse,
  asked: { readonly masks: boolean; readonly classes: boolean },
  sent: Image,
): Detections {
  const { imageWidth, imageHeight } = message;
  if (asked.classes && response.classifier === "") {
    throw new ResponseError("The server asked no classifier: it is older than this client.");
  }
  checkSize(imageWidth, imageHeight, sent);
  return new Detections({
    detections: message.detections.map((found) => readDetection(found, imageWidth, imageHeight, asked.masks)),
    imageWidth,
    imageHeight,
    model: response.model,
    version: response.version,
    timing,
    classifier: response.classifier,
    classifierVersion: response.classifierVersion,
  });
}

function readDetection(found: DetectionMessage, width: number, height: number, withMask: boolean): Detection {
  const { classId, label, score } = readClassScore(found);
  // The counts of a mask without a pixel are not empty: they say how many zeros there are.
  if (withMask && found.maskCounts.length === 0) {
    throw new ResponseError("The server answered without a mask: it is older than this client.");
  }
  const counts = Buffer.from(found.maskCounts).toString("latin1");
  return {
    box: readBox(found, width, height),
    score,
    classId,
    label,
    ...(withMask && { mask: new RleMask(classId, label, counts, height, width) }),
    keypoints: found.keypoints.map(({ name, x, y, score }) => {
      // A comparison with NaN is false.
      if (!(x >= 0 && x <= width && y >= 0 && y <= height && Number.isFinite(score))) {
        throw new ResponseError(
          `The server answered a keypoint that does not lie in its image of ${width}x${height}, or has no score.`,
        );
      }
      return { name, x, y, score };
    }),
    classes: found.classes.map(readClassScore),
  };
}

function readBox(found: DetectionMessage, width: number, height: number): Box {
  const { xMin = 0, yMin = 0, xMax = 0, yMax = 0 } = found.box ?? {};
  if (!(0 <= xMin && xMin <= xMax && xMax <= width && 0 <= yMin && yMin <= yMax && yMax <= height)) {
    throw new ResponseError(
      `The server answered a box that does not lie in its image of ${width}x${height}.`,
    );
  }
  return [xMin, yMin, xMax, yMax];
}
