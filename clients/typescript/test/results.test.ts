import assert from "node:assert/strict";
import { test } from "node:test";

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { readDetections } from "../src/detections.js";
import { ImageSchema } from "../src/gen/retinue/v1/image_pb.js";
import {
  DetectionListSchema,
  DetectResponseSchema,
  SegmentationSchema,
  SegmentResponseSchema,
} from "../src/gen/retinue/v1/vision_service_pb.js";
import { type MaskFormat, ResponseError } from "../src/index.js";
import { readSegmentation } from "../src/segmentation.js";
import { readTiming } from "../src/timing.js";

const TIMING = readTiming(undefined);
const FILE = create(ImageSchema, { source: { case: "encoded", value: new Uint8Array() } });
const PIXELS = create(ImageSchema, { source: { case: "raw", value: { width: 4, height: 2 } } });

const DETECTION = { box: { xMin: 0, yMin: 0, xMax: 4, yMax: 2 }, classId: 1, label: "dress", score: 0.5 };

function detections(message: MessageInitShape<typeof DetectionListSchema>, asked = {}, sent = FILE) {
  const list = create(DetectionListSchema, { imageWidth: 4, imageHeight: 2, ...message });
  const all = { masks: false, classes: false, ...asked };
  return readDetections(list, TIMING, create(DetectResponseSchema, { model: "m", version: 3 }), all, sent);
}

function segmentation(
  message: MessageInitShape<typeof SegmentationSchema>,
  maskFormat: MaskFormat = "raw",
  sent = FILE,
) {
  const result = create(SegmentationSchema, {
    ...{ width: 4, height: 2, mask: { case: "raw", value: Uint8Array.of(0, 0, 0, 0, 1, 1, 1, 1) } },
    areas: [{ classId: 0, label: "background", areaPixels: 4n }],
    ...message,
  });
  const asked = { maskFormat, maskSize: "original" } as const;
  return readSegmentation(result, TIMING, create(SegmentResponseSchema), asked, sent);
}

test("what is well formed is read", () => {
  const found = detections({ detections: [DETECTION] }, {}, PIXELS);
  assert.deepEqual([found.model, found.version, found.length], ["m", 3, 1]);
  assert.deepEqual(found.detections[0]?.box, [0, 0, 4, 2]);
  const result = segmentation({}, "raw", PIXELS);
  assert.deepEqual([...result.mask("background")], [1, 1, 1, 1, 0, 0, 0, 0]);
  assert.match(JSON.stringify(result), /"mask":\{"format":"raw","size":"original","base64":"AAAAAAEBAQE="\}/);
});

for (const [what, message, asked] of [
  ["a box outside of the image", { box: { ...DETECTION.box, xMax: 5 } }, {}],
  ["a box whose edges are the wrong way round", { box: { ...DETECTION.box, xMin: 3, xMax: 2 } }, {}],
  ["an edge that is no number", { box: { ...DETECTION.box, yMin: Number.NaN } }, {}],
  ["a score that is none", { score: 1.5 }, {}],
  ["a class id that is none", { classId: -1 }, {}],
  ["a keypoint outside of the image", { keypoints: [{ name: "nose", x: 5, y: 0, score: 1 }] }, {}],
  ["a score of a class that is none", { classes: [{ classId: 0, label: "", score: Number.NaN }] }, {}],
  ["no mask where one was asked for", {}, { masks: true }],
  ["no classifier where one was asked for", {}, { classes: true }],
] as const) {
  test(`${what} is an answer against the protocol`, () => {
    const changed = { ...DETECTION, ...message } as MessageInitShape<typeof DetectionListSchema>;
    const list = { detections: [changed] } as MessageInitShape<typeof DetectionListSchema>;
    assert.throws(() => detections(list, asked), ResponseError);
  });
}

for (const [what, message, sent] of [
  ["a size of nothing", { width: 0 }, FILE],
  ["a size that no image has", { width: 70_000 }, FILE],
  ["another size than that of the pixels", { width: 8 }, PIXELS],
  ["no class map", { mask: { case: undefined } }, FILE],
  ["another format", { mask: { case: "png", value: new Uint8Array() } }, FILE],
  ["an area larger than the image", { areas: [{ classId: 0, areaPixels: 9n }] }, FILE],
  ["a negative area", { areas: [{ classId: 0, areaPixels: -1n }] }, FILE],
  ["a class that comes twice", { areas: [{ classId: 1 }, { classId: 1 }] }, FILE],
  ["a class id that no map has", { areas: [{ classId: 70_000 }] }, FILE],
] as const) {
  test(`a class map of ${what} is an answer against the protocol`, () => {
    const changed = message as MessageInitShape<typeof SegmentationSchema>;
    assert.throws(() => segmentation(changed, "raw", sent), ResponseError);
  });
}

test("a class map of as many bytes as it has no pixels is refused when it is asked for", () => {
  const result = segmentation({ mask: { case: "raw", value: new Uint8Array(7) } });
  assert.throws(() => result.classMap, ResponseError);
});
