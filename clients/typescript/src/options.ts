/** What can be asked besides the images: the options of `classify`, `detect` and `segment`. */

import type { MaskFormat, MaskSize } from "./segmentation.js";

export type Priority = "high" | "normal" | "low";

/** How long a call may take, and what ends it before. */
export interface WaitOptions {
  /**
   * How long one request may take, tries after refusals included; a long list of images takes several. Left out means
   * the client's own timeout.
   */
  readonly timeoutSeconds?: number | undefined;
  /** Cancels the call, which is then rejected with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of every question. */
export interface CallOptions extends WaitOptions {
  /** The model's name. May be left out where the server has exactly one model for the task. */
  readonly model?: string | undefined;
  /**
   * The model's version, at least 1, also as text, or its label, such as "canary". Left out means what the server's split
   * of requests says, or the newest. A server older than labels ignores one and does not say so.
   */
  readonly version?: number | string | undefined;
  /** When the images' turn is: "high" before all others', "normal", or "low" when nothing else waits. */
  readonly priority?: Priority | undefined;
  /**
   * What goes beside each request, names in lower case and text of printable ASCII, such as what a server that splits its
   * traffic is told to keep on one version.
   */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** Options of `classify`. */
export interface ClassifyOptions extends CallOptions {
  /** How many classes to return for each image. Left out means 5, or all where the model has fewer. */
  readonly topK?: number | undefined;
  /** Classes of lower probability are left out, in [0, 1]. */
  readonly minScore?: number | undefined;
  /** Whether to say where the most probable class is seen, for models that can. */
  readonly heatmap?: boolean | undefined;
}

/** Which classifier `detect` asks about each detection, and what. */
export interface ClassifyWith {
  /** The classifier's name. May be left out where the server has exactly one. */
  readonly model?: string | undefined;
  /** Its version, at least 1, or its label. Left out means what the server's split of requests says, or the newest. */
  readonly version?: number | string | undefined;
  /** How many classes to return for each detection. Left out means 5, or all where the classifier has fewer. */
  readonly topK?: number | undefined;
  /** Classes of lower probability are left out, in [0, 1]. */
  readonly minScore?: number | undefined;
  /**
   * How much of what surrounds a box is shown to it: so much of the box's width on the left and on the right, and of its
   * height above and below, in [0, 1].
   */
  readonly context?: number | undefined;
}

/** Options of `detect`. */
export interface DetectOptions extends CallOptions {
  /** Detections of lower score are left out, in [0, 1]. Left out means the model's own default. */
  readonly scoreThreshold?: number | undefined;
  /** The most detections of one image, at least 1. Left out means all. */
  readonly maxDetections?: number | undefined;
  /** Only these classes, by name. Left out means every class. */
  readonly classes?: string | readonly string[] | undefined;
  /**
   * Two boxes of one class that overlap more than this are one detection, in [0, 1]. Left out means the model's own; a
   * model whose graph has it fixed takes no other.
   */
  readonly iouThreshold?: number | undefined;
  /** Whether to say which pixels show each object, for models that can. */
  readonly masks?: boolean | undefined;
  /**
   * A classifier that says more of each detection, by name or with options of its own: the server cuts the detections out
   * of the image and asks it. Left out means none; a pipeline has its own.
   */
  readonly classifyWith?: string | ClassifyWith | undefined;
}

/** Options of `segment`. */
export interface SegmentOptions extends CallOptions {
  /** How the class map travels. Left out means "raw", which is ready to use; "coco_rle" is smaller. */
  readonly maskFormat?: MaskFormat | undefined;
  /** The size of the class map. Left out means "original". */
  readonly maskSize?: MaskSize | undefined;
  /** Only these classes, by name; the others become background. Left out means every class. */
  readonly classes?: string | readonly string[] | undefined;
}
