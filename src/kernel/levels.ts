/** Tables of levels: the nearest one to a number, and what codes of a table stand for. */
import { HalftoneError } from '../base/errors.ts';
import type { BlockLayout } from './kernel.ts';
import { checkLayout, eachBlock } from './layout.ts';

/** Tables from this size on are searched through an index over the leading bits of a number. */
const indexedFrom = 4;

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** The levels of a table in ascending order, prepared to find the nearest. */
export class Levels {
  /** Ascending, each once. */
  readonly values: Float32Array;
  /** The code of each. */
  readonly codes: Uint8Array;
  /** Between neighbours; a number on the border goes up where `#up` says so. */
  readonly #borders: Float64Array;
  readonly #up: Uint8Array;
  /** For each upper half of a float32: the nearest level to the smallest number that begins so. */
  #index: Uint8Array | undefined;

  /**
   * @param table the level of each code, at most 256; NaN for codes that no number gets. Of equal levels the first counts.
   * @param often whether an index pays: the table serves many numbers.
   */
  constructor(table: Float32Array, often: boolean) {
    const sorted = Array.from(table, (level, code) => ({ level, code }))
      .filter(({ level }) => Number.isFinite(level))
      .sort((a, b) => a.level - b.level || a.code - b.code)
      .filter(({ level }, index, all) => index === 0 || level !== all[index - 1].level);
    if (sorted.length === 0 || table.length > 256) {
      throw new HalftoneError('internal', `levels: expected 1 to 256 of them, got ${sorted.length} of ${table.length}`);
    }
    this.values = Float32Array.from(sorted, ({ level }) => level);
    this.codes = Uint8Array.from(sorted, ({ code }) => code);
    const count = sorted.length - 1;
    this.#borders = Float64Array.from({ length: count }, (_, i) => (this.values[i] + this.values[i + 1]) / 2);
    // Ties go to the even code, as in the rounding of floats; between two alike to the smaller magnitude.
    this.#up = Uint8Array.from({ length: count }, (_, i) => {
      const [low, high] = [this.codes[i] % 2, this.codes[i + 1] % 2];
      if (low !== high) return high === 0 ? 1 : 0;
      return Math.abs(this.values[i + 1]) < Math.abs(this.values[i]) ? 1 : 0;
    });
    if (often && table.length >= indexedFrom) this.#index = this.#makeIndex();
  }

  /** The place in `values` of the level nearest to a number; the first for NaN. */
  nearest(number: number): number {
    const borders = this.#borders;
    let place = 0;
    if (this.#index) {
      float[0] = number;
      place = this.#index[word[0] >>> 16];
    } else if (borders.length > 15) {
      place = this.#search(number);
    }
    while (
      place < borders.length &&
      (number > borders[place] || (number === borders[place] && this.#up[place] === 1))
    ) {
      place++;
    }
    return place;
  }

  /** At most the place of the nearest level, by halving. */
  #search(number: number): number {
    let low = 0;
    let high = this.#borders.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#borders[middle] < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #makeIndex(): Uint8Array {
    const index = new Uint8Array(2 ** 16);
    for (let half = 0; half < 2 ** 16; half++) {
      // The smallest of the numbers that begin so: negative ones fall with their lower half.
      word[0] = ((half << 16) | (half >= 2 ** 15 ? 0xffff : 0)) >>> 0;
      if (Number.isNaN(float[0])) word[0] = (half << 16) >>> 0;
      const smallest = float[0];
      if (!Number.isNaN(smallest)) index[half] = this.#search(smallest);
    }
    return index;
  }
}

const indexed = new WeakMap<Float32Array, Levels>();

/** The levels of a format's table, prepared once. */
export function levelsOf(table: Float32Array): Levels {
  let levels = indexed.get(table);
  if (!levels) {
    levels = new Levels(table, true);
    indexed.set(table, levels);
  }
  return levels;
}

/** `codes = the code of the level nearest to values / scale`, divided in float32. Where the scale is 0, nearest to 0. */
export function encodeLevels(
  values: Float32Array,
  layout: BlockLayout,
  scales: Float32Array,
  levels: Levels,
  codes: Uint8Array,
): void {
  checkLayout(values.length, layout, scales);
  eachBlock(layout, (start, end, parameter) => {
    const scale = scales[parameter];
    for (let i = start; i < end; i++) {
      codes[i] = levels.codes[levels.nearest(scale === 0 ? 0 : Math.fround(values[i] / scale))];
    }
  });
}

/** `values = table[code] · scale`, rounded to float32 once. */
export function decodeLevels(
  codes: ArrayLike<number>,
  layout: BlockLayout,
  scales: Float32Array,
  table: Float32Array,
  values: Float32Array,
): void {
  checkLayout(values.length, layout, scales);
  eachBlock(layout, (start, end, parameter) => {
    const scale = scales[parameter];
    for (let i = start; i < end; i++) values[i] = table[codes[i]] * scale;
  });
}

/** `values = Σ ±scales[p·order + m]` over m, plus where bit m of the code is set; added in order, in float32. */
export function decodeSigns(
  codes: ArrayLike<number>,
  layout: BlockLayout,
  scales: Float32Array,
  order: number,
  values: Float32Array,
): void {
  const table = new Float32Array(2 ** order);
  eachBlock(layout, (start, end, parameter) => {
    for (let code = 0; code < table.length; code++) {
      let sum = 0;
      for (let m = 0; m < order; m++) {
        const scale = scales[parameter * order + m];
        sum = Math.fround(sum + ((code >> m) & 1 ? scale : -scale));
      }
      table[code] = sum;
    }
    for (let i = start; i < end; i++) values[i] = table[codes[i]];
  });
}
