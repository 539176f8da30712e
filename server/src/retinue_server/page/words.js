/** Numbers as people read them. Pure. */

/** A score or share, in [0, 1]. */
export function percent(score) {
  if (score > 0 && score < 0.0005) return "< 0.1 %";
  // Of what is nearly all, too, a digit more is told: it is not all.
  if (score < 1 && score > 0.9995) return "> 99.9 %";
  return `${(100 * score).toFixed(score < 0.0995 || (score > 0.99 && score < 1) ? 1 : 0)} %`;
}

/** Milliseconds. */
export function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** Bytes as mebibytes. */
export function mebibytes(bytes) {
  return (bytes / (1024 * 1024)).toFixed(1);
}

/** The name of a value of an enum, of which what comes before is its type's. */
export function name(value) {
  const words = String(value ?? "")
    .replace(/^(TASK|COLOUR|RESIZE_MODE|INTERPOLATION|PRECISION)_/, "")
    .toLowerCase();
  return words.replaceAll("_", " ").replace(/^(rgb|fp16|fp32|int8)/, (known) => known.toUpperCase());
}

/** A number that may be very small. */
export function difference(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(2)));
}
