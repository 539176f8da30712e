/** What is drawn over images: run lengths, levels and colours as pixels. Pure. */

/**
 * Reads COCO's compressed counts.
 *
 * @param {string} counts As the server gives them.
 * @returns {number[]} Lengths of runs down the columns, of background first.
 * Source: pycocotools, maskApi.c, rleFrString.
 */
export function runsOf(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32 && at < counts.length);
    if (code & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/**
 * Paints a mask into pixels that may be fewer than its own.
 *
 * @param {Uint32Array} pixels As `packed` has colours, width * height of them; what the mask does not cover stays.
 * @param {{width: number, height: number}} size Of the pixels.
 * @param {number[]} runs Of the mask.
 * @param {{width: number, height: number}} whole Size of the mask, at least that of the pixels.
 * @param {number} colour As `packed` has it.
 */
export function paintRuns(pixels, size, runs, whole, colour) {
  // Of each column of the mask, the one of the pixels that shows it, or -1.
  const columns = new Int32Array(whole.width).fill(-1);
  for (let x = 0; x < size.width; x++) columns[Math.floor(((x + 0.5) * whole.width) / size.width)] = x;
  const row = (y) => Math.max(0, Math.ceil((y * size.height) / whole.height - 0.5));
  let start = 0;
  runs.forEach((length, index) => {
    const end = start + length;
    for (let at = start; index % 2 && at < end; ) {
      const column = Math.floor(at / whole.height);
      const last = Math.min(end, (column + 1) * whole.height);
      const x = columns[column];
      if (x >= 0) {
        const until = Math.min(size.height, row(last - column * whole.height));
        for (let y = row(at - column * whole.height); y < until; y++) pixels[y * size.width + x] = colour;
      }
      at = last;
    }
    start = end;
  });
}

/** Red, green, blue and alpha, each 0 to 255, as one number whose bytes lie in memory as a canvas has them. */
export function packed(colour) {
  return new Uint32Array(Uint8ClampedArray.from(colour).buffer)[0];
}

/**
 * A class's colour: neighbours differ, and dark text can be read on each.
 *
 * @param {number} id Of the class.
 * @returns {number[]} Red, green, blue, each 0 to 255.
 */
export function classColour(id) {
  // Of twelve hues five apart, which are all of them; further dozens lie between, lighter or darker.
  const dozen = Math.floor(id / 12);
  return fromHsl((((id * 5) % 12) * 30 + 15 * (dozen % 2) + 160) % 360, 0.85, [0.72, 0.7, 0.82][dozen % 3]);
}

/** Source: CSS Color Module Level 4, 7.1. */
function fromHsl(hue, saturation, lightness) {
  const amount = saturation * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - amount * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

/** A colour as CSS has it. */
export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

// Dark violet, magenta, orange, pale yellow: lighter where there is more, for those who see no colours, too.
const RAMP = [
  [40, 10, 90],
  [150, 30, 120],
  [240, 100, 50],
  [255, 240, 150],
];

/** Makes a heatmap of grey levels in place: RGBA, more colour and less transparent where there is more. */
export function paintHeat(pixels) {
  for (let at = 0; at < pixels.length; at += 4) {
    const level = pixels[at] / 255;
    const place = level * (RAMP.length - 1);
    const low = Math.min(RAMP.length - 2, Math.floor(place));
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = [RAMP[low][channel], RAMP[low + 1][channel]];
      pixels[at + channel] = from + (to - from) * (place - low);
    }
    pixels[at + 3] = 255 * Math.min(1, 0.1 + 1.4 * level);
  }
}

/** The bytes of base64. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
