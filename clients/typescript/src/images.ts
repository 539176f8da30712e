/**
 * What a caller may hand over as an image, and how it travels.
 *
 * Paths and bytes are image files and travel as they are. Pixels travel uncompressed.
 */

import { createReadStream } from "node:fs";

import { create } from "@bufbuild/protobuf";

import { ImageError } from "./errors.js";
import { BoundingBoxSchema, ChannelOrder, type Image, ImageSchema } from "./gen/retinue/v1/image_pb.js";

/**
 * Pixels that are already decoded: rows from the top, channels side by side, 8 bits each. What `sharp(...).raw()` and a
 * canvas give is of this form.
 */
export interface RawPixels {
  /** height * width * channels bytes. */
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  /** 3 is RGB, 4 RGBA, 1 grey. Left out means what `data` has room for. */
  readonly channels?: number | undefined;
}

/** An image alone: see `ImageSource`. */
export type PlainImage = string | URL | Uint8Array | RawPixels;

/** An image and where to look, for models that judge given regions. */
export interface WithRegions {
  readonly image: PlainImage;
  /**
   * xMin, yMin, xMax, yMax of each in the image's pixels as a person sees it. A server older than regions ignores them
   * and does not say so.
   */
  readonly regions: readonly (readonly [xMin: number, yMin: number, xMax: number, yMax: number])[];
}

/** An image: the path of a file, the bytes of one, or pixels; with regions where a model needs them. */
export type ImageSource = PlainImage | WithRegions;

/** A file over this is not one of the formats the server reads, and would only fill the memory. */
const MAX_FILE_BYTES = 2 ** 30;
const ORDERS: Record<number, ChannelOrder> = {
  1: ChannelOrder.GRAY,
  3: ChannelOrder.RGB,
  4: ChannelOrder.RGBA,
};
const FILE_ERRORS: Record<string, readonly [reason: string, message: string]> = {
  ENOENT: ["FILE_NOT_FOUND", "There is no such file."],
  ENOTDIR: ["FILE_NOT_FOUND", "There is no such file."],
  EACCES: ["FILE_FORBIDDEN", "Reading the file is not permitted."],
  EPERM: ["FILE_FORBIDDEN", "Reading the file is not permitted."],
  EISDIR: ["FILE_IS_A_FOLDER", "It is a folder. `retinue score` takes all images of a folder."],
};

/** Whether a value is one image rather than a collection of images. */
export function isImageSource(value: unknown): value is ImageSource {
  return (
    typeof value === "string" ||
    value instanceof URL ||
    ArrayBuffer.isView(value) ||
    (typeof value === "object" && value !== null && ("data" in value || "regions" in value))
  );
}

/** Which image this is, for messages: a path, or the kind and size of what has none. */
export function describe(source: ImageSource): string {
  if (typeof source === "string" || source instanceof URL) return String(source);
  if (source instanceof Uint8Array) return `${source.length} bytes`;
  if ("regions" in source) return describe(source.image);
  return `pixels ${source.width}x${source.height}`;
}

/**
 * The message of an image, and how many bytes of pixels or file it holds.
 *
 * @throws ImageError The file cannot be read, or the pixels are of a kind that cannot be sent.
 * @throws TypeError It is no image at all, or its regions are none.
 */
export async function readImage(source: ImageSource): Promise<[image: Image, sizeBytes: number]> {
  if (!isImageSource(source)) {
    throw new TypeError("That is no image: give a path, the bytes of an image file, or pixels.");
  }
  if (ArrayBuffer.isView(source) && !(source instanceof Uint8Array)) {
    throw new TypeError(
      `${(source as object).constructor.name} is no image: the bytes of an image file are a Uint8Array, and pixels are ` +
        "{ data, width, height }.",
    );
  }
  if (typeof source === "object" && "regions" in source) {
    if (!isImageSource(source.image)) {
      throw new TypeError("Regions are of an image: give { image, regions }.");
    }
    const regions = readRegions(source.regions);
    const [image, sizeBytes] = await readImage(source.image);
    image.regions = regions;
    return [image, sizeBytes];
  }
  const image = create(ImageSchema);
  if (typeof source === "string" || source instanceof URL) {
    image.source = { case: "encoded", value: await readFile(source) };
  } else if (source instanceof Uint8Array) {
    image.source = { case: "encoded", value: source };
  } else {
    image.source = { case: "raw", value: readPixels(source) };
  }
  const { value } = image.source;
  return [image, value instanceof Uint8Array ? value.length : value.data.length];
}

async function readFile(path: string | URL): Promise<Uint8Array> {
  try {
    const chunks: Buffer[] = [];
    let sizeBytes = 0;
    // One byte past the limit tells a file that is too large from one that just fits.
    for await (const chunk of createReadStream(path, { end: MAX_FILE_BYTES, highWaterMark: 1 << 20 })) {
      chunks.push(chunk);
      sizeBytes += chunk.length;
    }
    if (sizeBytes > MAX_FILE_BYTES) {
      throw new ImageError("The file has more than 1024 MiB: it is no photo.", {
        source: describe(path),
        reason: "FILE_TOO_LARGE",
      });
    }
    return Buffer.concat(chunks);
  } catch (error) {
    if (error instanceof ImageError) throw error;
    const { code = "", message } = error as NodeJS.ErrnoException;
    const [reason, advice] = FILE_ERRORS[code] ?? ["FILE_UNREADABLE", `The file cannot be read: ${message}.`];
    throw new ImageError(advice, { source: describe(path), reason, cause: error });
  }
}

function readPixels(pixels: RawPixels) {
  const { data, width, height } = pixels;
  // Whatever is given as data, it is looked at below.
  const channels = pixels.channels ?? (data?.length ?? 0) / (width * height);
  const channelOrder = ORDERS[channels];
  let advice: string | undefined;
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) {
    advice = "Pixels must be a Uint8Array: bring their values to 0...255.";
  } else if (!(Number.isInteger(width) && Number.isInteger(height) && width >= 1 && height >= 1)) {
    advice = "Pixels must have a width and a height of at least 1.";
  } else if (channelOrder === undefined) {
    advice = "Pixels must have 3 channels (RGB), 4 (RGBA) or 1 (grey), side by side.";
  } else if (data.length !== width * height * channels) {
    advice = `${width}x${height} pixels of ${channels} channels are ${width * height * channels} bytes, not ${data.length}.`;
  }
  if (advice !== undefined || channelOrder === undefined) {
    throw new ImageError(advice ?? "", { source: describe(pixels), reason: "PIXELS_UNSUPPORTED" });
  }
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.length);
  return { $typeName: "retinue.v1.RawImage" as const, data: bytes, width, height, channelOrder };
}

function readRegions(regions: WithRegions["regions"]) {
  return [...regions].map((region) => {
    const [xMin, yMin, xMax, yMax] = region;
    if (region.length !== 4 || ![xMin, yMin, xMax, yMax].every((edge) => typeof edge === "number")) {
      throw new TypeError("Regions are four numbers each: xMin, yMin, xMax, yMax.");
    }
    return create(BoundingBoxSchema, { xMin, yMin, xMax, yMax });
  });
}
