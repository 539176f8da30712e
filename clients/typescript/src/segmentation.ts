/** What `segment` answers. */

import { ResponseError } from "./errors.js";
import type { Image } from "./gen/retinue/v1/image_pb.js";
import type { Segmentation as Message, SegmentResponse } from "./gen/retinue/v1/vision_service_pb.js";
import { classMapFromRaw, paintRle, pixels, RleMask } from "./masks.js";
import { checkSize } from "./size.js";
import type { Timing } from "./timing.js";

// A class map has at most 16 bits a pixel.
const MOST_MAPPED_CLASSES = 1 << 16;

/** How the class map travels: the class ids, a COCO run-length mask for each class, or a greyscale PNG. */
export type MaskFormat = "raw" | "coco_rle" | "png";

/** The size of the class map: the original image's, or the model's own, in the frame of its input. */
export type MaskSize = "original" | "model";

/** The class id of each pixel; -1 in an Int32Array where a pixel has no class. */
export type ClassMap = Uint8Array | Uint16Array | Int32Array;

/** How much of a class map one class covers. */
export interface ClassArea {
  /** The class, counted from 0. */
  readonly classId: number;
  /** The class's name. */
  readonly label: string;
  /** Pixels of the class map. */
  readonly areaPixels: number;
}

/** The class of each pixel of one image. */
export class Segmentation implements Iterable<ClassArea> {
  /** Columns of the class map. */
  readonly width: number;
  /** Rows of the class map. */
  readonly height: number;
  /** How much each class covers, largest first; absent classes are left out. */
  readonly areas: readonly ClassArea[];
  /** How the class map travelled. */
  readonly maskFormat: MaskFormat;
  /** In which frame it is. */
  readonly maskSize: MaskSize;
  /** The class map as it came: raw class ids or a PNG file. Undefined for "coco_rle". */
  readonly encoded: Uint8Array | undefined;
  /** One mask for each class but the background, by ascending class id. Empty but for "coco_rle". */
  readonly rleMasks: readonly RleMask[];
  /** The model that answered. */
  readonly model: string;
  /** Its version. */
  readonly version: number;
  /** Where the time went. */
  readonly timing: Timing;
  #classMap: ClassMap | undefined;

  constructor(fields: {
    width: number;
    height: number;
    areas: readonly ClassArea[];
    maskFormat: MaskFormat;
    maskSize: MaskSize;
    encoded: Uint8Array | undefined;
    rleMasks: readonly RleMask[];
    model: string;
    version: number;
    timing: Timing;
  }) {
    this.width = fields.width;
    this.height = fields.height;
    this.areas = fields.areas;
    this.maskFormat = fields.maskFormat;
    this.maskSize = fields.maskSize;
    this.encoded = fields.encoded;
    this.rleMasks = fields.rleMasks;
    this.model = fields.model;
    this.version = fields.version;
    this.timing = fields.timing;
  }

  /**
   * The class id of each pixel, row-major [height, width], decoded when first asked for.
   *
   * One byte a pixel, or two for models of more than 256 classes. An Int32Array with -1 where a pixel has no class, which
   * happens only in the format "coco_rle", for a model without background that was asked for some of its classes.
   *
   * @throws ResponseError What came cannot be decoded.
   * @throws TypeError It came as a PNG, which is for others to decode.
   */
  get classMap(): ClassMap {
    this.#classMap ??= this.#decode();
    return this.#classMap;
  }

  /**
   * Where one class is, by id or name: one byte a pixel, 1 inside and 0 outside, row-major [height, width].
   *
   * A name that several classes share means all of them.
   */
  mask(classIdOrLabel: number | string): Uint8Array {
    const ids = new Set(
      this.areas
        .filter(
          ({ classId, label }) => classIdOrLabel === (typeof classIdOrLabel === "string" ? label : classId),
        )
        .map(({ classId }) => classId),
    );
    const { classMap } = this;
    return Uint8Array.from(classMap, (classId) => (ids.has(classId) ? 1 : 0));
  }

  [Symbol.iterator](): Iterator<ClassArea> {
    return this.areas[Symbol.iterator]();
  }

  /** The result as values that JSON knows; the class map stays in its format, PNG and raw in base64. */
  toJSON(): object {
    const { model, version, width, height, areas, timing } = this;
    const mask = {
      format: this.maskFormat,
      size: this.maskSize,
      ...(this.encoded ? { base64: Buffer.from(this.encoded).toString("base64") } : { masks: this.rleMasks }),
    };
    return { model, version, width, height, areas, mask, timing };
  }

  #decode(): ClassMap {
    const { width, height, encoded } = this;
    if (this.maskFormat === "png") {
      throw new TypeError('A class map in the format "png" is in encoded, as a PNG file: ask for "raw".');
    }
    if (encoded !== undefined) return classMapFromRaw(encoded, height, width);
    const masked = new Set(this.rleMasks.map(({ classId }) => classId));
    // The background is the one class that has an area and no mask.
    const background = this.areas.filter(({ classId }) => !masked.has(classId));
    const covered = this.areas.reduce((sum, { areaPixels }) => sum + areaPixels, 0) === width * height;
    let classMap: ClassMap;
    if (covered && background.length <= 1) {
      const largest = Math.max(0, ...masked, ...this.areas.map(({ classId }) => classId));
      classMap = pixels<ClassMap>(largest < 256 ? Uint8Array : Uint16Array, height, width);
      classMap.fill(background[0]?.classId ?? 0);
    } else {
      classMap = pixels(Int32Array, height, width).fill(-1);
    }
    for (const { counts, classId } of this.rleMasks) paintRle(counts, height, width, classMap, classId);
    return classMap;
  }
}

/**
 * Reads a result from the wire.
 *
 * @throws ResponseError It is not what was asked for, or cannot be the image's.
 */
export function readSegmentation(
  message: Message,
  timing: Timing,
  response: SegmentResponse,
  asked: { readonly maskFormat: MaskFormat; readonly maskSize: MaskSize },
  sent: Image,
): Segmentation {
  const { width, height, mask } = message;
  if (mask.case === undefined) {
    throw new ResponseError("The server answered a segmentation without a class map.");
  }
  if (mask.case.toLowerCase() !== asked.maskFormat.replace("_", "")) {
    throw new ResponseError("The server answered a class map in another format than was asked for.");
  }
  checkSize(width, height, asked.maskSize === "original" ? sent : undefined);
  const rleMasks = mask.case === "cocoRle" ? mask.value.masks : [];
  checkClassIds(message.areas.map(({ classId }) => classId));
  checkClassIds(rleMasks.map(({ classId }) => classId));
  const areas = message.areas.map(({ classId, label, areaPixels }) => ({
    classId,
    label,
    areaPixels: Number(areaPixels),
  }));
  checkAreas(areas, width, height);
  return new Segmentation({
    width,
    height,
    areas,
    maskFormat: asked.maskFormat,
    maskSize: asked.maskSize,
    encoded: mask.case === "cocoRle" ? undefined : mask.value,
    rleMasks: rleMasks.map(
      ({ classId, label, counts }) =>
        new RleMask(classId, label, Buffer.from(counts).toString("latin1"), height, width),
    ),
    model: response.model,
    version: response.version,
    timing,
  });
}

function checkClassIds(classIds: readonly number[]): void {
  const wrong = classIds.find((classId) => classId < 0 || classId >= MOST_MAPPED_CLASSES);
  if (wrong !== undefined) {
    throw new ResponseError(`The server answered the class id ${wrong} in a class map.`);
  }
  if (new Set(classIds).size < classIds.length) {
    throw new ResponseError("The server answered a class of a class map twice.");
  }
}

function checkAreas(areas: readonly ClassArea[], width: number, height: number): void {
  const sum = areas.reduce((sum, { areaPixels }) => sum + areaPixels, 0);
  if (areas.some(({ areaPixels }) => areaPixels < 0) || sum > width * height) {
    throw new ResponseError(`The server answered areas that a class map of ${width}x${height} cannot have.`);
  }
}
