/** What the server says of the models it serves. */

import { Colour, type ModelManifest, Precision, Task as TaskNumber } from "./gen/retinue/v1/manifest_pb.js";
import type { TrafficShare } from "./gen/retinue/v1/serving_pb.js";
import type { Model } from "./gen/retinue/v1/vision_service_pb.js";

/** The kinds of question a model answers. */
export type Task = "classify" | "detect" | "segment";

/** One figure measured on labelled images. */
export interface Quality {
  /**
   * "top1_accuracy", "map_50", "map_50_95", "mean_iou", ...; or how often a network of fewer bits answers as it did in
   * fp32: "top1_agreement", "pixel_agreement", "detection_agreement".
   */
  readonly metric: string;
  /** What was measured, on the scale of the measure; for all of the above in [0, 1]. */
  readonly value: number;
  /** The labelled set. */
  readonly dataset: string;
  /** How many images were measured. */
  readonly images: number;
  /** "fp32", "fp16", "int8" or "fp16_weights": of the network that was measured. */
  readonly precision: string;
  /** What ran it: "pytorch" or "onnxruntime". */
  readonly engine: string;
}

/** A model that is served, and how it runs there. */
export interface ModelInfo {
  readonly name: string;
  /** At least 1. */
  readonly version: number;
  /** What it answers; "unknown" where the server knows a task that this client does not. */
  readonly task: Task | "tensor" | "unknown";
  /** What it recognises and what it was trained on. */
  readonly description: string;
  /** The name of each class, by class id. */
  readonly labels: readonly string[];
  /** Rows of the network's input. */
  readonly inputHeight: number;
  /** Columns of the network's input. */
  readonly inputWidth: number;
  /** "rgb" or "grey". */
  readonly colour: string;
  /** "fp32", "fp16", "int8" or "fp16_weights". */
  readonly precision: string;
  /** What was measured on labelled images. Empty where no labelled set exists. */
  readonly quality: readonly Quality[];
  /** The network, such as "torchvision.models.mobilenet_v2". */
  readonly architecture: string;
  /** The licence of the weights. */
  readonly licence: string;
  /** SHA-256 of the ONNX file, 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  /** When the bundle was made, RFC 3339, UTC. */
  readonly createdAt: string;
  /** For detectors: the score from which a detection is returned when none is named. */
  readonly defaultScoreThreshold: number | undefined;
  /** For detectors: the most detections of one image. */
  readonly maxDetections: number | undefined;
  /** For detectors: how many given regions of an image it judges; 0 where it looks at the whole image. */
  readonly maxRegions: number;
  /** Whether it can say which pixels show each object. */
  readonly givesMasks: boolean;
  /** The keypoints it finds of each object, in their order; empty where it finds none. */
  readonly keypointNames: readonly string[];
  /** Whether it takes another `iouThreshold` than its own. */
  readonly adjustableThresholds: boolean;
  /** Whether it can say where the most probable class is seen. */
  readonly givesHeatmaps: boolean;
  /** For segmenters: the class of pixels that belong to no object, or undefined. */
  readonly backgroundClassId: number | undefined;
  /** The ONNX Runtime execution provider that runs it, such as "CPUExecutionProvider". */
  readonly provider: string;
  /** "auto", "cpu", "cuda" or "tensorrt". */
  readonly requestedProvider: string;
  /** Why no better provider runs it; empty if none could. */
  readonly fallbackReason: string;
  /** The version of ONNX Runtime. */
  readonly runtimeVersion: string;
  /** The largest batch that is run. */
  readonly maxBatchSize: number;
  /** How many batches can run at once. */
  readonly instances: number;
  /** Threads inside one run. */
  readonly threadsPerInstance: number;
  /** Bytes that the model takes at most: the sum of the next three. */
  readonly memoryBytes: number;
  /** Bytes of its weights as they are in use; on a GPU, on the device. */
  readonly weightsBytes: number;
  /** Bytes that ONNX Runtime holds beside them, activations above all; on a GPU, on the device. */
  readonly arenaBytes: number;
  /** Bytes of the images on their way into the network and of the answers on their way out. */
  readonly buffersBytes: number;
  /** Of one instance at maxBatchSize, decoding not counted. */
  readonly imagesPerSecond: number;
  /** What one image takes in microseconds that has the machine to itself, decoding not counted; 0 if not measured. */
  readonly loneImageUs: number;
  /** Whether such an image is run on all cores. */
  readonly aloneOnAllCores: boolean;
  /** The labels of this version, by which requests may name it. */
  readonly versionLabels: readonly string[];
  /**
   * How many of a hundred requests it answers of those that name no version; undefined where the server shares none out,
   * so that all go to the newest.
   */
  readonly trafficPercent: number | undefined;
  /** The entry of a request's metadata that decides which version answers; empty where chance does. */
  readonly stickyKey: string;
  /** How many of a hundred requests that other versions answer are copied to it, to be compared. */
  readonly shadowPercent: number;
  /** Of a pipeline, the models that run one after the other; empty for every other model. */
  readonly steps: readonly string[];
}

const TASKS: Partial<Record<TaskNumber, Task | "tensor">> = {
  [TaskNumber.CLASSIFY]: "classify",
  [TaskNumber.DETECT]: "detect",
  [TaskNumber.SEGMENT]: "segment",
  [TaskNumber.TENSOR]: "tensor",
};
const TASK_NUMBERS = {
  classify: TaskNumber.CLASSIFY,
  detect: TaskNumber.DETECT,
  segment: TaskNumber.SEGMENT,
};

/**
 * The number of a task on the wire; left out, that of every task.
 *
 * @throws TypeError There is no such task.
 */
export function taskNumber(task: Task | undefined): TaskNumber {
  if (task === undefined) return TaskNumber.UNSPECIFIED;
  if (!Object.hasOwn(TASK_NUMBERS, task)) {
    throw new TypeError(`"${task}" is no task: "classify", "detect" and "segment" are.`);
  }
  return TASK_NUMBERS[task];
}

/** Reads one model from the wire. */
export function readModelInfo(model: Model): ModelInfo {
  const { manifest, execution, serving } = model;
  return {
    name: model.name,
    version: model.version,
    ...bundleFields(manifest),
    ...optionFields(manifest?.taskOptions),
    provider: execution?.provider ?? "",
    requestedProvider: execution?.requestedProvider ?? "",
    fallbackReason: execution?.fallbackReason ?? "",
    runtimeVersion: execution?.runtimeVersion ?? "",
    maxBatchSize: execution?.maxBatchSize ?? 0,
    instances: execution?.instances ?? 0,
    threadsPerInstance: execution?.threadsPerInstance ?? 0,
    memoryBytes: Number(execution?.memoryBytes ?? 0),
    weightsBytes: Number(execution?.memory?.weightsBytes ?? 0),
    arenaBytes: Number(execution?.memory?.arenaBytes ?? 0),
    buffersBytes: Number(execution?.memory?.buffersBytes ?? 0),
    imagesPerSecond: execution?.imagesPerSecond ?? 0,
    loneImageUs: Number(execution?.loneImageUs ?? 0),
    aloneOnAllCores: execution?.aloneOnAllCores ?? false,
    versionLabels: Object.entries(serving?.labels ?? {})
      .filter(([, version]) => version === model.version)
      .map(([label]) => label)
      .sort(),
    trafficPercent: serving?.split.length ? percent(model, serving.split) : undefined,
    stickyKey: serving?.stickyKey ?? "",
    shadowPercent: serving?.shadow ? percent(model, [serving.shadow]) : 0,
    steps: manifest?.pipeline?.steps.map((step) => step.model) ?? [],
  };
}

function bundleFields(manifest: ModelManifest | undefined) {
  return {
    task: TASKS[manifest?.task ?? TaskNumber.UNSPECIFIED] ?? ("unknown" as const),
    description: manifest?.description ?? "",
    labels: manifest?.labels ?? [],
    inputHeight: manifest?.input?.height ?? 0,
    inputWidth: manifest?.input?.width ?? 0,
    colour: (Colour[manifest?.input?.colour ?? 0] ?? "UNKNOWN").toLowerCase(),
    precision: precisionName(manifest?.precision ?? 0),
    quality: (manifest?.quality ?? []).map(({ metric, value, dataset, images, precision, engine }) => ({
      ...{ metric, value, dataset, images, engine },
      precision: precisionName(precision),
    })),
    architecture: manifest?.source?.architecture ?? "",
    licence: manifest?.source?.licence ?? "",
    sha256: manifest?.sha256 ?? "",
    createdAt: manifest?.createdAt ?? "",
  };
}

function optionFields(options: ModelManifest["taskOptions"] | undefined) {
  const detect = options?.case === "detect" ? options.value : undefined;
  const background = options?.case === "segment" ? options.value.backgroundClassId : -1;
  return {
    defaultScoreThreshold: detect?.defaultScoreThreshold,
    maxDetections: detect?.maxDetections,
    maxRegions: detect?.maxRegions ?? 0,
    givesMasks: (detect?.maskHeight ?? 0) > 0,
    keypointNames: detect?.keypointNames ?? [],
    adjustableThresholds: detect?.adjustableThresholds ?? false,
    givesHeatmaps: options?.case === "classify" && options.value.heatmapHeight > 0,
    backgroundClassId: background >= 0 ? background : undefined,
  };
}

/** The shares of a model's version, together. */
function percent(model: Model, shares: readonly TrafficShare[]): number {
  const versionOf = ({ target }: TrafficShare) =>
    target.case === "label" ? model.serving?.labels[target.value] : target.value;
  return shares
    .filter((share) => versionOf(share) === model.version)
    .reduce((sum, share) => sum + share.percent, 0);
}

function precisionName(precision: Precision): string {
  return (Precision[precision] ?? "UNKNOWN").toLowerCase();
}
