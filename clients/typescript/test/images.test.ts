import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import { type ImageSource, readImage } from "../src/images.js";
import { ImageError } from "../src/index.js";

const FOLDER = mkdtempSync(join(tmpdir(), "retinue-"));

test("a path, its URL and its bytes are the same image", async () => {
  const path = join(FOLDER, "image");
  writeFileSync(path, "bytes");
  for (const source of [path, pathToFileURL(path), Buffer.from("bytes")]) {
    const [image, sizeBytes] = await readImage(source);
    assert.equal(Buffer.from(image.source.value as Uint8Array).toString(), "bytes");
    assert.equal(sizeBytes, 5);
  }
});

test("the channels of pixels are as many as their bytes have room for", async () => {
  for (const [channels, channelOrder] of [
    [1, 4],
    [3, 1],
    [4, 3],
  ] as const) {
    const [image] = await readImage({ data: new Uint8ClampedArray(6 * channels), width: 3, height: 2 });
    assert.ok(image.source.case === "raw");
    const { width, height, channelOrder: order } = image.source.value;
    assert.deepEqual([width, height, order], [3, 2, channelOrder]);
  }
});

for (const [what, pixels, says] of [
  ["floating point", { data: new Float32Array(12), width: 2, height: 2 }, /0\.\.\.255/],
  ["two channels", { data: new Uint8Array(8), width: 2, height: 2 }, /3 channels/],
  ["no kind", { data: undefined, width: 2, height: 2 }, /0\.\.\.255/],
  ["no rows", { data: new Uint8Array(0), width: 2, height: 0 }, /at least 1/],
  ["too few bytes", { data: new Uint8Array(11), width: 2, height: 2, channels: 3 }, /12 bytes, not 11/],
] as const) {
  test(`pixels of ${what} are an error of that image`, async () => {
    await assert.rejects(readImage(pixels as unknown as ImageSource), {
      name: "ImageError",
      reason: "PIXELS_UNSUPPORTED",
      message: says,
    });
  });
}

test("a file that cannot be read is an error of that image", async () => {
  for (const [path, reason] of [
    [join(FOLDER, "missing.jpg"), "FILE_NOT_FOUND"],
    [join(FOLDER), "FILE_IS_A_FOLDER"],
    ["null\0byte", "FILE_UNREADABLE"],
  ] as const) {
    await assert.rejects(
      readImage(path),
      (error) => error instanceof ImageError && error.reason === reason && error.source === path,
    );
  }
});

for (const [what, wrong, says] of [
  [
    "an array of floating point",
    new Float32Array(12),
    /Float32Array is no image: .*\{ data, width, height \}/,
  ],
  ["a view of something else", new DataView(new ArrayBuffer(4)), /DataView is no image/],
  ["pixels without their size", new Uint8ClampedArray(12), /Uint8ClampedArray is no image/],
  ["regions without an image", { regions: [[1, 2, 3, 4]] }, /give \{ image, regions \}/],
  ["regions of nothing", { image: undefined, regions: [] }, /give \{ image, regions \}/],
] as const) {
  test(`${what} says what is wanted`, async () => {
    await assert.rejects(readImage(wrong as unknown as ImageSource), { name: "TypeError", message: says });
  });
}

test("what is no image is a mistake of the code that gives it", async () => {
  for (const wrong of [5, null, {}, { image: "a.jpg", regions: [[1, 2, 3]] }]) {
    await assert.rejects(readImage(wrong as unknown as ImageSource), TypeError);
  }
});
