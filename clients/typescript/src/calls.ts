/** The three questions as values: how a request begins and what its answer means. No input or output. */

import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";

import { type Classification, readClassification } from "./classification.js";
import { type Detections, readDetections } from "./detections.js";
import { ImageError, InvalidRequestError, ResponseError } from "./errors.js";
import type { Status } from "./gen/google/rpc/status_pb.js";
import type { Image } from "./gen/retinue/v1/image_pb.js";
import {
  MaskFormat as MaskFormatNumber,
  MaskSize as MaskSizeNumber,
  Priority as PriorityNumber,
  type Timing as TimingMessage,
  VisionService,
} from "./gen/retinue/v1/vision_service_pb.js";
import type { CallOptions, ClassifyOptions, ClassifyWith, DetectOptions, SegmentOptions } from "./options.js";
import { readSegmentation, type Segmentation } from "./segmentation.js";
import { imageErrorFromStatus } from "./status.js";
import { readTiming, type Timing } from "./timing.js";

const PRIORITIES = { high: PriorityNumber.HIGH, normal: PriorityNumber.NORMAL, low: PriorityNumber.LOW };
const MASK_FORMATS = {
  raw: MaskFormatNumber.RAW,
  coco_rle: MaskFormatNumber.COCO_RLE,
  png: MaskFormatNumber.PNG,
};
const MASK_SIZES = { original: MaskSizeNumber.ORIGINAL, model: MaskSizeNumber.MODEL };

const OF_EVERY_CALL = ["model", "version", "priority", "metadata", "timeoutSeconds", "signal"];
const OF_CLASSIFY = [...OF_EVERY_CALL, "topK", "minScore", "heatmap"];
const OF_DETECT = [
  ...OF_EVERY_CALL,
  ...["scoreThreshold", "maxDetections", "classes", "iouThreshold", "masks", "classifyWith"],
];
const OF_SEGMENT = [...OF_EVERY_CALL, "maskFormat", "maskSize", "classes"];
const OF_CLASSIFY_WITH = ["model", "version", "topK", "minScore", "context"];

const METADATA_NAME = /^(?!grpc-)[a-z0-9_.-]+(?<!-bin)$/;
const METADATA_VALUE = /^[ -~]+$/;
// A label begins with a letter.
const VERSION_NUMBER = /^[1-9][0-9]{0,17}$/;

/** One question with its options, to be asked about any number of images. */
export interface Call<Result> {
  /** The RPC of VisionService. */
  readonly method: DescMethodUnary;
  /** What goes beside each request. */
  readonly metadata: Readonly<Record<string, string>>;
  /** A request about these images, packed. */
  pack(images: readonly Image[]): Uint8Array;
  /**
   * One result or ImageError for each image of a request; an ImageError whose cause is a ResponseError where a result
   * cannot be that of its image.
   *
   * @param response The answer.
   * @param images What was asked about.
   * @param sources Which images these are, for the errors.
   * @throws ResponseError There are not as many outcomes as there were images, or one of them is empty.
   */
  read(response: unknown, images: readonly Image[], sources: readonly string[]): (Result | ImageError)[];
}

/**
 * Which class does an image show?
 *
 * @throws InvalidRequestError An option is of the wrong type or too large a number to be sent.
 * @throws TypeError There is no such option.
 */
export function classifyCall(options: ClassifyOptions): Call<Classification> {
  refuseUnknown("classify", OF_CLASSIFY, options);
  const { topK, minScore, heatmap = false } = options;
  return makeCall(
    VisionService.method.classify,
    { ...common(options), topK, minScore, heatmap },
    options,
    (result, timing, response) => readClassification(result, timing, response, { heatmap }),
  );
}

/** Which objects are where? Throws as `classifyCall` does. */
export function detectCall(options: DetectOptions): Call<Detections> {
  refuseUnknown("detect", OF_DETECT, options);
  const { scoreThreshold, maxDetections, iouThreshold, masks = false, classifyWith } = options;
  const asked = { masks, classes: classifyWith !== undefined };
  return makeCall(
    VisionService.method.detect,
    {
      ...common(options),
      ...{ scoreThreshold, maxDetections, iouThreshold, masks },
      classes: names(options.classes),
      classifyWith: classifyWithFields(classifyWith),
    },
    options,
    (result, timing, response, sent) => readDetections(result, timing, response, asked, sent),
  );
}

/** Which class has each pixel? Throws as `classifyCall` does. */
export function segmentCall(options: SegmentOptions): Call<Segmentation> {
  refuseUnknown("segment", OF_SEGMENT, options);
  const { maskFormat = "raw", maskSize = "original" } = options;
  return makeCall(
    VisionService.method.segment,
    {
      ...common(options),
      maskFormat: word("maskFormat", MASK_FORMATS, maskFormat),
      maskSize: word("maskSize", MASK_SIZES, maskSize),
      classes: names(options.classes),
    },
    options,
    (result, timing, response, sent) =>
      readSegmentation(result, timing, response, { maskFormat, maskSize }, sent),
  );
}

/** The fields of a request that name a model's version, by its number, also as text, or by its label. */
export function versionFields(version: number | string | undefined) {
  if (typeof version !== "string") return { version: version ?? 0 };
  return VERSION_NUMBER.test(version) ? { version: Number(version) } : { versionLabel: version };
}

/**
 * Packs a request.
 *
 * @throws InvalidRequestError An option is of the wrong type or too large a number to be sent.
 */
export function pack<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema>): Uint8Array {
  try {
    return toBinary(schema, create(schema, init));
  } catch (error) {
    throw new InvalidRequestError(`An option cannot be sent: ${(error as Error).message}.`, { cause: error });
  }
}

interface Outcome<ResultMessage> {
  readonly outcome:
    | { case: "result"; value: ResultMessage }
    | { case: "error"; value: Status }
    | { case: undefined; value?: undefined };
  readonly timing?: TimingMessage;
}

type ResultMessageOf<Response> = Response extends { outcomes: Outcome<infer ResultMessage>[] }
  ? ResultMessage
  : never;

function makeCall<Input extends DescMessage, Output extends DescMessage, Result>(
  method: DescMethodUnary<Input, Output>,
  init: MessageInitShape<Input>,
  options: CallOptions,
  readResult: (
    message: ResultMessageOf<MessageShape<Output>>,
    timing: Timing,
    response: MessageShape<Output>,
    sent: Image,
  ) => Result,
): Call<Result> {
  const packImages = (images: readonly Image[]) => pack(method.input, { ...init, images });
  // A wrong option is told before any image is read.
  packImages([]);
  return {
    method,
    metadata: entries(options.metadata),
    pack: packImages,
    read(response, images, sources) {
      const message = response as MessageShape<Output>;
      const { outcomes } = response as { outcomes: Outcome<ResultMessageOf<MessageShape<Output>>>[] };
      if (outcomes.length !== sources.length) {
        throw new ResponseError(
          `The server answered ${outcomes.length} outcomes for ${sources.length} images.`,
        );
      }
      return outcomes.map(({ outcome, timing }, index) => {
        const source = sources[index] as string;
        if (outcome.case === undefined) {
          throw new ResponseError("The server answered neither a result nor an error for an image.");
        }
        if (outcome.case === "error") return imageErrorFromStatus(outcome.value, source);
        try {
          return readResult(outcome.value, readTiming(timing), message, images[index] as Image);
        } catch (error) {
          if (!(error instanceof ResponseError)) throw error;
          const { message, code, reason } = error;
          return new ImageError(message, { source, code, reason, cause: error });
        }
      });
    },
  };
}

function common({ model, version, priority = "normal" }: CallOptions) {
  return {
    model: model ?? "",
    ...versionFields(version),
    priority: word("priority", PRIORITIES, priority),
  };
}

/** Says which options there are where one is given that is none. */
function refuseUnknown(question: string, known: readonly string[], given: object): void {
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(`${question} has no option ${unknown}; it has ${[...known].sort().join(", ")}.`);
  }
}

function word<Word extends string, Meaning>(
  name: string,
  words: Record<Word, Meaning>,
  given: Word,
): Meaning {
  if (!Object.hasOwn(words, given)) {
    throw new InvalidRequestError(`${name} is ${Object.keys(words).join(", ")}, not ${given}.`);
  }
  return words[given];
}

function names(classes: string | readonly string[] | undefined): string[] {
  return typeof classes === "string" ? [classes] : [...(classes ?? [])];
}

function classifyWithFields(asked: string | ClassifyWith | undefined) {
  if (asked === undefined) return undefined;
  const one: ClassifyWith = typeof asked === "string" ? { model: asked } : asked;
  refuseUnknown("classifyWith", OF_CLASSIFY_WITH, one);
  const { model = "", version, topK, minScore, context = 0 } = one;
  return { model, ...versionFields(version), topK, minScore, context };
}

function entries(metadata: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  for (const [name, value] of Object.entries(metadata)) {
    if (name === "authorization") {
      // The client's own would replace it; and without TLS anybody could read it on its way.
      throw new InvalidRequestError(
        "metadata has no 'authorization': give the client what says who calls, as new Client(address, { token }).",
      );
    }
    if (!METADATA_NAME.test(name) || typeof value !== "string" || !METADATA_VALUE.test(value)) {
      throw new InvalidRequestError(
        `metadata "${name}": "${value}" cannot be sent: a name is of lower-case letters, digits, '.', '_' and '-', and ` +
          "a value is text of printable ASCII.",
      );
    }
  }
  return metadata;
}
