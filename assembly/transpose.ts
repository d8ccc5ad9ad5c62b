/** Matrices turned over, with elements of four bytes and of one: tile by tile, so that whole cache lines are used. */

/** Rows that are turned together: with four bytes each they fill a cache line of the output. */
const strip = 16;

/** A 4×4 tile of 4-byte elements; strides in bytes. */
function turn4(values: usize, stride: usize, out: usize, outStride: usize): void {
  const a = v128.load(values);
  const b = v128.load(values + stride);
  const c = v128.load(values + 2 * stride);
  const d = v128.load(values + 3 * stride);
  const ab = v128.shuffle<u32>(a, b, 0, 4, 1, 5);
  const AB = v128.shuffle<u32>(a, b, 2, 6, 3, 7);
  const cd = v128.shuffle<u32>(c, d, 0, 4, 1, 5);
  const CD = v128.shuffle<u32>(c, d, 2, 6, 3, 7);
  v128.store(out, v128.shuffle<u64>(ab, cd, 0, 2));
  v128.store(out + outStride, v128.shuffle<u64>(ab, cd, 1, 3));
  v128.store(out + 2 * outStride, v128.shuffle<u64>(AB, CD, 0, 2));
  v128.store(out + 3 * outStride, v128.shuffle<u64>(AB, CD, 1, 3));
}

/** Columns of a strip that are turned together. */
const span = 512;

/** A strip's rows next to each other: where rows are far apart, lines of the cache push each other out. */
const near: usize = memory.data(32768, 16);

/** Rows further apart than this are brought near first. */
const far: usize = 2048;

/** `stride` and `outStride` count elements from one row to the next. */
export function transpose4(values: usize, rows: i32, columns: i32, stride: i32, out: usize, outStride: i32): void {
  const step = (<usize>stride) << 2;
  const outStep = (<usize>outStride) << 2;
  for (let row = 0; row < rows; row += strip) {
    const height = min(strip, rows - row);
    const from = values + <usize>row * step;
    const to = out + ((<usize>row) << 2);
    if (step < far) {
      turnStrip(from, height, columns, step, to, outStep);
      continue;
    }
    for (let column = 0; column < columns; column += span) {
      const width = min(span, columns - column);
      const bytes = (<usize>width) << 2;
      for (let i: usize = 0; i < <usize>height; i++) {
        memory.copy(near + i * bytes, from + i * step + ((<usize>column) << 2), bytes);
      }
      turnStrip(near, height, width, bytes, to + <usize>column * outStep, outStep);
    }
  }
}

/** Up to 16 rows; strides in bytes. */
function turnStrip(values: usize, height: i32, columns: i32, step: usize, out: usize, outStep: usize): void {
  for (let column = 0; column < columns; column += 4) {
    const from = values + ((<usize>column) << 2);
    const to = out + <usize>column * outStep;
    const width = min(4, columns - column);
    let i = 0;
    if (width === 4) {
      for (; i + 4 <= height; i += 4) turn4(from + <usize>i * step, step, to + ((<usize>i) << 2), outStep);
    }
    for (; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const element = load<u32>(from + <usize>i * step + ((<usize>j) << 2));
        store<u32>(to + <usize>j * outStep + ((<usize>i) << 2), element);
      }
    }
  }
}

/** Two times sixteen vectors of scratch. */
const scratch: usize = memory.data(512, 16);

/** A 16×16 tile of bytes: interleaving row i with row i + 8 four times turns it over. */
function turn1(values: usize, stride: usize, out: usize, outStride: usize): void {
  for (let i: usize = 0; i < 8; i++) {
    const a = v128.load(values + i * stride);
    const b = v128.load(values + (i + 8) * stride);
    v128.store(scratch + (i << 5), v128.shuffle<u8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    v128.store(
      scratch + (i << 5),
      v128.shuffle<u8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
      16,
    );
  }
  let from = scratch;
  let to = scratch + 256;
  for (let round = 0; round < 2; round++) {
    for (let i: usize = 0; i < 8; i++) {
      const a = v128.load(from + (i << 4));
      const b = v128.load(from + (i << 4), 128);
      v128.store(to + (i << 5), v128.shuffle<u8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
      v128.store(
        to + (i << 5),
        v128.shuffle<u8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
        16,
      );
    }
    const other = from;
    from = to;
    to = other;
  }
  for (let i: usize = 0; i < 8; i++) {
    const a = v128.load(from + (i << 4));
    const b = v128.load(from + (i << 4), 128);
    const at = out + 2 * i * outStride;
    v128.store(at, v128.shuffle<u8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    v128.store(at + outStride, v128.shuffle<u8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
}

export function transpose1(values: usize, rows: i32, columns: i32, stride: i32, out: usize, outStride: i32): void {
  const step = <usize>stride;
  const outStep = <usize>outStride;
  for (let row = 0; row < rows; row += 16) {
    const height = min(16, rows - row);
    for (let column = 0; column < columns; column += 16) {
      const width = min(16, columns - column);
      const from = values + <usize>row * step + <usize>column;
      const to = out + <usize>column * outStep + <usize>row;
      if (height === 16 && width === 16) {
        turn1(from, step, to, outStep);
        continue;
      }
      for (let i: usize = 0; i < <usize>height; i++) {
        for (let j: usize = 0; j < <usize>width; j++) {
          store<u8>(to + j * outStep + i, load<u8>(from + i * step + j));
        }
      }
    }
  }
}
