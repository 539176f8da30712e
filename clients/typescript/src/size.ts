/** The size of an answer, held against the image that was sent. */

import { ResponseError } from "./errors.js";
import type { Image } from "./gen/retinue/v1/image_pb.js";

const MOST_SIDE = 65_535;

/**
 * Refuses a size that is not the one of the image that was sent, as far as that is known: of raw pixels it is.
 *
 * @param sent The image. Left out for a class map in the frame of the model's input.
 * @throws ResponseError It is another size, or one that no image has.
 */
export function checkSize(width: number, height: number, sent?: Image): void {
  if (!(width >= 1 && height >= 1 && width <= MOST_SIDE && height <= MOST_SIDE)) {
    throw new ResponseError(`The server answered a size of ${width}x${height}, which no image has.`);
  }
  if (sent?.source.case !== "raw") return;
  const raw = sent.source.value;
  if (raw.width !== width || raw.height !== height) {
    throw new ResponseError(
      `The server answered a size of ${width}x${height} for an image of ${raw.width}x${raw.height}.`,
    );
  }
}
