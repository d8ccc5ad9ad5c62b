// The quantization formula of the article that halftone implements, first as it is printed, then corrected.
// Run it with Node 20 or later: node examples/article/article.mjs

/** The range of the article's worked example, and its weight. */
const [min, max] = [-100, 100];
const weight = -50;

/**
 * Section 4 of the article, as printed: w_q = (w − w_min) / (w_max − w_min) · (q − 1) + w_min, with q = 8 "levels".
 */
function printed(w, q) {
  return ((w - min) / (max - min)) * (q - 1) + min;
}

/** Rounds to the nearest integer, halves to the even neighbour, as ONNX does. */
function roundHalfToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** A weight becomes an integer code 0 … 2^bits − 1 … */
function encode(w, bits) {
  const levels = 2 ** bits;
  return roundHalfToEven(((w - min) / (max - min)) * (levels - 1));
}

/** … and the code becomes the value that the network computes with. */
function decode(code, bits) {
  const levels = 2 ** bits;
  return (code / (levels - 1)) * (max - min) + min;
}

console.log(`The article's formula, as printed: range [${min}, ${max}], q = 8, w = ${weight}`);
console.log(`  w_q = ${printed(weight, 8).toFixed(2)}`);
console.log(
  '  It is neither a code (an integer) nor close to -50: 8 was meant as bits and used as the number of levels,',
);
console.log('  and nothing maps the code back to the range.');
console.log();

const code = encode(weight, 8);
const value = decode(code, 8);
console.log('Corrected: 8 bits are 2^8 = 256 levels; a weight becomes a code, a code becomes a value');
console.log(`  code = round((w - min) / (max - min) * 255) = ${code} of 0…255`);
console.log(`  value = code / 255 * (max - min) + min = ${value.toFixed(2)}`);
console.log(`  error = ${(value - weight).toFixed(2)}, at most half a step: ${((max - min) / 255 / 2).toFixed(2)}`);
console.log();

console.log('The same weight in fewer bits');
for (const bits of [8, 4, 3, 2, 1]) {
  const fewer = encode(weight, bits);
  const levels = `code ${fewer} of 0…${2 ** bits - 1}`;
  console.log(`  ${bits} bit${bits === 1 ? ' ' : 's'}  ${levels.padEnd(18)} value ${decode(fewer, bits).toFixed(2)}`);
}
