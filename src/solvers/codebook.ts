/** Learned levels: one table for the tensor, for each row, or for the numbers of a tensor divided by their block's scale. */
import { roundHalfToEven } from '../base/round.ts';
import { type CodebookFormat, formatOf } from '../formats/index.ts';
import { parameterLayout, type QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import { type BlockLayout, blockLayout, encodeLevels, Levels } from '../kernel/index.ts';
import { checkWeights } from './groups.ts';
import { converge, Distribution, lloydMax } from './lloyd-max.ts';
import { doubleQuantized, fitsHalf, idleScale, powerScale, roundPlain, shortFactor, shortScales } from './scales.ts';
import type { SolveOptions } from './solver.ts';

/** Bins of a distribution: between these, and about eight to a number. */
const bins = { min: 2 ** 10, max: 2 ** 16, perNumber: 8 } as const;

/** Turns of scales and levels, each fitted to the other. */
const turns = 4;

/** Tables are as sure with this many numbers, evenly taken, as with all. */
const enoughNumbers = 2 ** 20;

function binsFor(count: number): number {
  return Math.min(Math.max(2 ** Math.ceil(Math.log2(count * bins.perNumber)), bins.min), bins.max);
}

function levelsOf(method: CodebookFormat['method'], distribution: Distribution, count: number): Float64Array {
  return method === 'equal-mass' ? distribution.equalMass(count) : lloydMax(distribution, count);
}

/** Rounds a table to float16, or to float32 where one of its levels does not fit. */
function rounded(table: Float64Array | Float32Array, scheme: Scheme): { table: Float32Array; scheme: Scheme } {
  const beyond = table.some((level) => Math.abs(level) > 65504 || (level !== 0 && Math.abs(level) < 2 ** -24));
  const stored: Scheme = scheme.scaleType === 'float16' && beyond ? { ...scheme, scaleType: 'float32' } : scheme;
  return { table: Float32Array.from(table, (level) => roundPlain(level, stored.scaleType)), scheme: stored };
}

/** Quantizes to levels that are learned from the weights. @throws as `Solver.solve`. */
export function solveCodebook(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  options: SolveOptions,
): QuantizedMatrix {
  checkWeights(values, rows, columns, options);
  switch (scheme.granularity.kind) {
    case 'tensor':
      return solveTables(values, rows, columns, 1, scheme, options);
    case 'channel':
      return solveTables(values, rows, columns, rows, scheme, options);
    default:
      return solveBlocks(values, rows, columns, scheme, options);
  }
}

/** One table for each of `count` equal parts of the matrix; no scales. */
function solveTables(
  values: Float32Array,
  rows: number,
  columns: number,
  count: number,
  scheme: Scheme,
  { importance }: SolveOptions,
): QuantizedMatrix {
  const { bits, method } = formatOf(scheme.format) as CodebookFormat;
  const size = 2 ** bits;
  const length = values.length / count;
  const tables = new Float64Array(count * size);
  for (let part = 0; part < count; part++) {
    const own = values.subarray(part * length, (part + 1) * length);
    const step = Math.ceil(length / enoughNumbers);
    const some = step === 1 ? own : own.filter((_, index) => index % step === 0);
    const weigh = importance && anyAbove(importance) ? (i: number) => importance[(i * step) % columns] : undefined;
    const found = levelsOf(method, new Distribution(some, binsFor(some.length), weigh), size);
    tables.set(found, part * size);
  }
  const { table: codebook, scheme: stored } = rounded(tables, scheme);
  const codes = new Uint8Array(values.length);
  const scales = new Float32Array(count).fill(1);
  for (let part = 0; part < count; part++) {
    const levels = new Levels(codebook.subarray(part * size, (part + 1) * size), count === 1);
    const [start, end] = [part * length, (part + 1) * length];
    const layout: BlockLayout = { rows: 1, columns: length, blockSize: length };
    encodeLevels(
      values.subarray(start, end),
      layout,
      scales.subarray(part, part + 1),
      levels,
      codes.subarray(start, end),
    );
  }
  const { blockSize } = parameterLayout(scheme, rows, columns);
  return { scheme: stored, rows, columns, codes, blockSize, scales, zeroPoints: new Float32Array(count), codebook };
}

function anyAbove(importance: Float32Array): boolean {
  return importance.some((weight) => weight > 0);
}

/**
 * One table for the weights divided by their block's scale. Scales begin as the largest magnitude of the block; then the
 * table is fitted to the divided weights, each counting as much as its block's scale squared, and the scales by least
 * squares to the table, in turns.
 */
function solveBlocks(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: Scheme,
  { importance }: SolveOptions,
): QuantizedMatrix {
  const { bits, method } = formatOf(scheme.format) as CodebookFormat;
  const size = 2 ** bits;
  const layout = blockLayout(scheme, rows, columns);
  const perRow = Math.ceil(columns / layout.blockSize);
  const count = rows * perRow;
  const weighed = importance && anyAbove(importance) ? importance : undefined;
  const ideal = new Float64Array(count);
  const rangeOf = (parameter: number): readonly [number, number] => {
    const row = Math.floor(parameter / perRow);
    const start = row * columns + (parameter % perRow) * layout.blockSize;
    return [start, Math.min(start + layout.blockSize, (row + 1) * columns)];
  };
  for (let parameter = 0; parameter < count; parameter++) {
    const [start, end] = rangeOf(parameter);
    let magnitude = 0;
    for (let i = start; i < end; i++) magnitude = Math.max(magnitude, Math.abs(values[i]));
    ideal[parameter] = magnitude;
  }

  // Blocks that the table is learned from.
  const step = Math.ceil(values.length / enoughNumbers);
  const chosen = Array.from({ length: Math.ceil(count / step) }, (_, index) => index * step).filter(
    (parameter) => ideal[parameter] > 0,
  );
  const table = learnTable(values, chosen, rangeOf, ideal, columns, method, size, weighed);
  const largest = table.reduce((most, level) => Math.max(most, Math.abs(level)), 0);
  // The table spans −1 … 1 at most, so that scales stay of the size of the weights.
  const unit = largest > 0 ? largest : 1;
  const { table: codebook } = rounded(
    table.map((level) => level / unit),
    { ...scheme, scaleType: 'float16' },
  );
  const levels = new Levels(codebook, true);
  let scales: Float32Array = new Float32Array(count);
  const hasSign = scheme.scaleType !== 'float8e8m0' && scheme.scaleType !== 'float8e4m3fn';
  for (let parameter = 0; parameter < count; parameter++) {
    const [start, end] = rangeOf(parameter);
    const cover = ideal[parameter] * unit;
    if (cover < 2 ** -100) scales[parameter] = idleScale(scheme.scaleType);
    else if (method === 'equal-mass') scales[parameter] = cover;
    else scales[parameter] = fitScale(values, start, end, cover, levels, weighed, columns, hasSign);
  }
  let stored = scheme;
  let more: Pick<QuantizedMatrix, 'factors'> = {};
  switch (scheme.scaleType) {
    case 'float8e8m0':
      scales = scales.map((scale) => powerScale(roundHalfToEven(Math.log2(scale))));
      break;
    case 'float8e4m3fn': {
      const factor = shortFactor(scales.reduce((most, scale) => Math.max(most, scale), 0));
      scales = scales.map((scale) => shortScales(scale, factor, 0)[0]);
      more = { factors: Float32Array.of(factor) };
      break;
    }
    case 'int8': {
      const found = doubleQuantized(scales, rows);
      scales = found.scales;
      more = { factors: found.factors };
      break;
    }
    default:
      if (scheme.scaleType === 'float16' && !fitsHalf(scales)) stored = { ...scheme, scaleType: 'float32' };
      scales = scales.map((scale) => roundPlain(scale, stored.scaleType));
  }
  const codes = new Uint8Array(values.length);
  encodeLevels(values, layout, scales, levels, codes);
  const { blockSize } = layout;
  return {
    scheme: stored,
    rows,
    columns,
    codes,
    blockSize,
    scales,
    zeroPoints: new Float32Array(count),
    codebook,
    ...more,
  };
}

/** Levels for the weights of some blocks, divided by their scales, which are fitted to the levels in turns. */
function learnTable(
  values: Float32Array,
  blocks: readonly number[],
  rangeOf: (parameter: number) => readonly [number, number],
  ideal: Float64Array,
  columns: number,
  method: CodebookFormat['method'],
  size: number,
  importance: Float32Array | undefined,
): Float64Array {
  const total = blocks.reduce((sum, parameter) => sum + rangeOf(parameter)[1] - rangeOf(parameter)[0], 0);
  if (total === 0) return Float64Array.from({ length: size }, (_, i) => (2 * i) / (size - 1) - 1);
  const divided = new Float32Array(total);
  const weights = new Float64Array(total);
  const scales = Float64Array.from(blocks, (parameter) => ideal[parameter]);
  let levels: Float64Array = new Float64Array(0);
  for (let turn = 0; turn < (method === 'equal-mass' ? 1 : turns); turn++) {
    let place = 0;
    for (const [index, parameter] of blocks.entries()) {
      const [start, end] = rangeOf(parameter);
      const scale = scales[index];
      for (let i = start; i < end; i++, place++) {
        divided[place] = values[i] / scale;
        weights[place] = scale * scale * (importance ? importance[i % columns] : 1);
      }
    }
    const distribution = new Distribution(divided, binsFor(total), (index) => weights[index]);
    if (turn === 0) levels = levelsOf(method, distribution, size);
    else converge(distribution, levels);
    if (turn + 1 === turns || method === 'equal-mass') break;
    const finder = new Levels(Float32Array.from(levels), true);
    for (const [index, parameter] of blocks.entries()) {
      const [start, end] = rangeOf(parameter);
      scales[index] = fitScale(values, start, end, scales[index], finder, importance, columns, true);
    }
  }
  return levels;
}

/** Scales around the one a block has, by factors of it; then least squares. */
const scaleFactors = [0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1] as const;

function fitScale(
  values: Float32Array,
  start: number,
  end: number,
  scale: number,
  levels: Levels,
  importance: Float32Array | undefined,
  columns: number,
  hasSign: boolean,
): number {
  let best = 0;
  let found = scale;
  const offer = (candidate: number): boolean => {
    const inverse = 1 / candidate;
    let cross = 0;
    let square = 0;
    for (let i = start; i < end; i++) {
      const level = levels.values[levels.nearest(values[i] * inverse)];
      const weight = importance ? importance[i % columns] : 1;
      cross += weight * values[i] * level;
      square += weight * level * level;
    }
    const explained = square > 0 ? (cross * cross) / square : 0;
    if (!(explained > best)) return false;
    best = explained;
    found = cross / square;
    return true;
  };
  for (const factor of scaleFactors) {
    offer(scale * factor);
    if (hasSign) offer(-scale * factor);
  }
  for (let round = 0; round < 3 && offer(found); round++);
  return found;
}
