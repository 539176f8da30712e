/**
 * TypeScript client of Retinue: `Client` asks a server about images and gives typed results.
 *
 * @packageDocumentation
 */

export { Classification, type ClassScore } from "./classification.js";
export { Client, type ClientOptions } from "./client.js";
export { type Box, type Detection, Detections, type Keypoint } from "./detections.js";
export {
  AuthenticationError,
  DeadlineExceededError,
  ImageError,
  InvalidRequestError,
  ModelNotFoundError,
  OverloadedError,
  RequestTooLargeError,
  ResponseError,
  RetinueError,
  ServerError,
  ServerUnreachableError,
  type StatusCode,
  UnavailableError,
  WrongTaskError,
} from "./errors.js";
export type { ImageSource, PlainImage, RawPixels, WithRegions } from "./images.js";
export type { Images } from "./job.js";
export { RleMask } from "./masks.js";
export type { ModelInfo, Quality, Task } from "./models.js";
export type {
  CallOptions,
  ClassifyOptions,
  ClassifyWith,
  DetectOptions,
  Priority,
  SegmentOptions,
  WaitOptions,
} from "./options.js";
export type { Retries } from "./retries.js";
export type { Tls } from "./security.js";
export {
  type ClassArea,
  type ClassMap,
  type MaskFormat,
  type MaskSize,
  Segmentation,
} from "./segmentation.js";
export type { Timing } from "./timing.js";
