/** Where the time of one image went. */

import type { Timing as TimingMessage } from "./gen/retinue/v1/vision_service_pb.js";

/**
 * Where the time of one image went in the server, in microseconds.
 *
 * The stages follow one another; what is missing to the total was spent between them, or waiting for the other images of
 * the request.
 */
export interface Timing {
  /** Reading, orienting, converting and resizing the image. */
  readonly decodeUs: number;
  /** Waiting for the engine. */
  readonly queueUs: number;
  /** The run of the network on the whole batch. */
  readonly inferenceUs: number;
  /** Turning the network's output into the result. */
  readonly postprocessUs: number;
  /** From the request's arrival until all of the request's results were ready. */
  readonly totalUs: number;
  /** How many images ran together, this one included. */
  readonly batchSize: number;
}

/** Reads it from the wire. */
export function readTiming(message: TimingMessage | undefined): Timing {
  return {
    decodeUs: Number(message?.decodeUs ?? 0),
    queueUs: Number(message?.queueUs ?? 0),
    inferenceUs: Number(message?.inferenceUs ?? 0),
    postprocessUs: Number(message?.postprocessUs ?? 0),
    totalUs: Number(message?.totalUs ?? 0),
    batchSize: message?.batchSize ?? 0,
  };
}
