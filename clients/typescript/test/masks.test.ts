import assert from "node:assert/strict";
import { test } from "node:test";

import { ResponseError } from "../src/index.js";
import { classMapFromRaw, RleMask, runLengths } from "../src/masks.js";

/** What rleToString of COCO's maskApi.c makes of run lengths. */
function compress(runs: readonly number[]): string {
  let counts = "";
  runs.forEach((run, index) => {
    let left = index > 2 ? run - (runs[index - 2] as number) : run;
    for (let more = true; more; ) {
      let group = left & 0x1f;
      left >>= 5;
      more = group & 0x10 ? left !== -1 : left !== 0;
      if (more) group |= 0x20;
      counts += String.fromCharCode(group + 48);
    }
  });
  return counts;
}

test("run lengths are what they were before they were compressed", () => {
  for (const runs of [[12], [0, 12], [3, 1, 2, 4, 2], [1000, 1, 70000, 31, 2, 4096, 15, 16]]) {
    assert.deepEqual([...runLengths(compress(runs))], runs);
  }
});

test("masks go down the columns, and pixels along the rows", () => {
  const mask = new RleMask(1, "red", compress([1, 3, 2]), 2, 3);
  assert.deepEqual([...mask.decode()], [0, 1, 0, 1, 1, 0]);
});

for (const [what, counts] of [
  ["a number that is cut off", compress([6]).replace(/.$/, "f")],
  ["a number that has no end", "f".repeat(1000)],
  ["characters that are none", "~~"],
  ["too few pixels", compress([5])],
  ["too many", compress([3, 4])],
  ["a negative run", compress([3, -1, 4])],
  ["nothing", ""],
] as const) {
  test(`a mask of ${what} is refused`, () => {
    assert.throws(() => new RleMask(0, "", counts, 2, 3).decode(), ResponseError);
  });
}

test("a mask that is larger than any image takes no memory", () => {
  assert.throws(() => new RleMask(0, "", "0", 65_535, 65_535).decode(), /more pixels/);
});

test("raw class maps have one or two bytes a pixel", () => {
  assert.deepEqual([...classMapFromRaw(Uint8Array.of(1, 2), 1, 2)], [1, 2]);
  // Two bytes that lie at an odd place.
  const wide = Uint8Array.of(9, 1, 0, 0, 2).subarray(1);
  assert.deepEqual([...classMapFromRaw(wide, 1, 2)], [1, 512]);
  assert.throws(() => classMapFromRaw(Uint8Array.of(1, 2, 3), 1, 2), ResponseError);
});
