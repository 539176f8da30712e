/** Masks and class maps as they travel, decoded into typed arrays. */

import { ResponseError } from "./errors.js";

// Longer numbers are longer than any run of an image can be.
const MOST_GROUPS = 7;
// Four gigabytes of a class map that may be of four bytes a pixel.
const MOST_PIXELS = 2 ** 30;

/** The pixels of one class or one object, as COCO writes them. */
export class RleMask {
  /** The class, counted from 0. */
  readonly classId: number;
  /** The class's name. */
  readonly label: string;
  /** COCO's compressed run lengths, down the columns, beginning with zeros; ASCII. */
  readonly counts: string;
  /** Rows. */
  readonly height: number;
  /** Columns. */
  readonly width: number;

  constructor(classId: number, label: string, counts: string, height: number, width: number) {
    this.classId = classId;
    this.label = label;
    this.counts = counts;
    this.height = height;
    this.width = width;
  }

  /**
   * The mask as one byte a pixel, 1 inside and 0 outside, row-major [height, width].
   *
   * @throws ResponseError The runs are malformed or do not add up to height * width.
   */
  decode(): Uint8Array {
    const mask = pixels(Uint8Array, this.height, this.width);
    paintRle(this.counts, this.height, this.width, mask, 1);
    return mask;
  }

  /** The mask as pycocotools reads it: `size` and `counts` are COCO's. */
  toJSON(): object {
    const { classId, label, counts, height, width } = this;
    return { classId, label, size: [height, width], counts };
  }
}

/**
 * Room for a value of each pixel, all 0.
 *
 * @throws ResponseError No image has so many.
 */
export function pixels<T>(kind: new (length: number) => T, height: number, width: number): T {
  if (height * width > MOST_PIXELS) {
    throw new ResponseError(
      `A class map of ${width}x${height} has more pixels than this client makes room for.`,
    );
  }
  return new kind(height * width);
}

/**
 * Gives the pixels inside of a COCO run-length mask a value.
 *
 * @param target One element a pixel, row-major.
 * @throws ResponseError The runs are malformed or do not add up to height * width.
 */
export function paintRle(
  counts: string,
  height: number,
  width: number,
  target: { [index: number]: number },
  value: number,
): void {
  const pixelCount = height * width;
  let place = 0;
  let inside = false;
  for (const run of runLengths(counts)) {
    if (run < 0 || place + run > pixelCount) break;
    if (inside) paintRun(place, run, height, width, target, value);
    place += run;
    inside = !inside;
  }
  if (place !== pixelCount) {
    throw new ResponseError(`A run-length mask does not cover its ${width}x${height} pixels.`);
  }
}

/** Runs go down the columns, and rows are what lies side by side in memory. */
function paintRun(
  place: number,
  run: number,
  height: number,
  width: number,
  target: { [index: number]: number },
  value: number,
): void {
  let row = place % height;
  let column = (place - row) / height;
  for (let left = run; left > 0; left--) {
    target[row * width + column] = value;
    if (++row === height) {
      row = 0;
      column++;
    }
  }
}

/**
 * Decompresses COCO's run lengths: runs down the columns, the first of zeros.
 *
 * Each number is written in groups of five bits, lowest first, one printable character a group; from the fourth number
 * on, what is written is the difference to the number two places before.
 *
 * @throws ResponseError A character is none of these, or a number is cut off or too long.
 *
 * Source: rleFrString in maskApi.c of https://github.com/cocodataset/cocoapi
 */
export function* runLengths(counts: string): Generator<number> {
  let [beforeLast, last] = [0, 0];
  let [number, groups, runs] = [0, 0, 0];
  for (let index = 0; index < counts.length; index++) {
    const group = counts.charCodeAt(index) - 48;
    if (group < 0 || group > 63 || groups === MOST_GROUPS) throw malformed();
    number += (group & 0x1f) * 32 ** groups++;
    if (group & 0x20) continue;
    // The highest group's fifth bit is the sign.
    if (group & 0x10) number -= 32 ** groups;
    if (runs > 2) number += beforeLast;
    yield number;
    [beforeLast, last] = [last, number];
    [number, groups, runs] = [0, 0, runs + 1];
  }
  if (groups > 0) throw malformed();
}

/**
 * Reads class ids of one or two little-endian bytes a pixel, row-major.
 *
 * @throws ResponseError The bytes are neither height * width nor twice as many.
 */
export function classMapFromRaw(raw: Uint8Array, height: number, width: number): Uint8Array | Uint16Array {
  const pixelCount = height * width;
  if (raw.length === pixelCount) return raw;
  if (raw.length !== 2 * pixelCount) {
    throw new ResponseError(`A class map of ${width}x${height} came as ${raw.length} bytes.`);
  }
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  return Uint16Array.from({ length: pixelCount }, (_, index) => view.getUint16(2 * index, true));
}

function malformed(): ResponseError {
  return new ResponseError("A run-length mask is malformed.");
}
