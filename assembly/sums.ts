/** Sums over many values: squared errors, bins, channels and products of columns. */

/** Adds squared differences to four sums, of the elements by their index modulo 4. Windows but the last are multiples. */
export function squaredError(a: usize, b: usize, length: i32, sums: usize): void {
  let front = v128.load(sums);
  let back = v128.load(sums, 16);
  const end = a + ((<usize>length) << 2);
  const vectors = a + ((<usize>(length & ~3)) << 2);
  for (; a < vectors; a += 16, b += 16) {
    const x = v128.load(a);
    const y = v128.load(b);
    const low = f64x2.sub(f64x2.promote_low_f32x4(x), f64x2.promote_low_f32x4(y));
    const high = f64x2.sub(f64x2.promote_low_f32x4(upper(x)), f64x2.promote_low_f32x4(upper(y)));
    front = f64x2.add(front, f64x2.mul(low, low));
    back = f64x2.add(back, f64x2.mul(high, high));
  }
  v128.store(sums, front);
  v128.store(sums, back, 16);
  for (; a < end; a += 4, b += 4, sums += 8) {
    const difference = <f64>load<f32>(a) - <f64>load<f32>(b);
    store<f64>(sums, load<f64>(sums) + difference * difference);
  }
}

function upper(values: v128): v128 {
  return v128.shuffle<u64>(values, values, 1, 0);
}

/** Adds values and squares to four sums each, by index modulo 4. Windows but the last are multiples. */
export function runSums(values: usize, length: i32, sums: usize): void {
  let front = v128.load(sums);
  let back = v128.load(sums, 16);
  let frontSquares = v128.load(sums, 32);
  let backSquares = v128.load(sums, 48);
  const end = values + ((<usize>length) << 2);
  const vectors = values + ((<usize>(length & ~3)) << 2);
  for (; values < vectors; values += 16) {
    const four = v128.load(values);
    const low = f64x2.promote_low_f32x4(four);
    const high = f64x2.promote_low_f32x4(upper(four));
    front = f64x2.add(front, low);
    back = f64x2.add(back, high);
    frontSquares = f64x2.add(frontSquares, f64x2.mul(low, low));
    backSquares = f64x2.add(backSquares, f64x2.mul(high, high));
  }
  v128.store(sums, front);
  v128.store(sums, back, 16);
  v128.store(sums, frontSquares, 32);
  v128.store(sums, backSquares, 48);
  for (; values < end; values += 4, sums += 8) {
    const value = <f64>load<f32>(values);
    store<f64>(sums, load<f64>(sums) + value);
    store<f64>(sums, load<f64>(sums, 32) + value * value, 32);
  }
}

const lanes: usize = memory.data(64, 16);

function total(at: usize): f64 {
  return load<f64>(at) + load<f64>(at, 8) + (load<f64>(at, 16) + load<f64>(at, 24));
}

/** Adds `count` runs of `inner` values to channels from `channel` on, over and over. */
export function channelSums(
  values: usize,
  count: i32,
  inner: i32,
  channel: i32,
  channels: i32,
  sums: usize,
  squares: usize,
): void {
  for (; count > 0; count--) {
    memory.fill(lanes, 0, 64);
    runSums(values, inner, lanes);
    const at = (<usize>channel) << 3;
    store<f64>(sums + at, load<f64>(sums + at) + total(lanes));
    store<f64>(squares + at, load<f64>(squares + at) + total(lanes + 32));
    values += (<usize>inner) << 2;
    channel = channel + 1 === channels ? 0 : channel + 1;
  }
}

/** The same for runs of one value: `rows` rows of all channels. */
export function columnSums(values: usize, rows: i32, channels: i32, sums: usize, squares: usize): void {
  const pairs = (<usize>(channels & ~1)) << 3;
  for (; rows > 0; rows--) {
    let at: usize = 0;
    for (; at < pairs; at += 16, values += 8) {
      const value = f64x2.promote_low_f32x4(v128.load64_zero(values));
      v128.store(sums + at, f64x2.add(v128.load(sums + at), value));
      v128.store(squares + at, f64x2.add(v128.load(squares + at), f64x2.mul(value, value)));
    }
    if (channels & 1) {
      const value = <f64>load<f32>(values);
      store<f64>(sums + at, load<f64>(sums + at) + value);
      store<f64>(squares + at, load<f64>(squares + at) + value * value);
      values += 4;
    }
  }
}

/** 1.5·2^52: doubles near it hold an integer in their lowest bits. */
const magic: f64 = 6755399441055744;

/** The numbers of the bins of two values, in the lower halves of 64-bit lanes; `bias` is `magic` less the first bin. */
function binsOf(values: v128, inverse: v128, bias: v128): v128 {
  return f64x2.add(f64x2.floor(f64x2.mul(f64x2.promote_low_f32x4(values), inverse)), bias);
}

function count(table: usize, bin: i32): void {
  const at = table + ((<usize>bin) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/**
 * Counts `length` values in four tables of `bins` + 1 counters of 32 bits; neighbours go to different tables, so that
 * equal ones do not wait for each other. What has no bin is counted in the last.
 */
export function countBins(values: usize, length: i32, inverseStride: f64, first: f64, bins: i32, tables: usize): void {
  const inverse = f64x2.splat(inverseStride);
  const bias = f64x2.splat(magic - first);
  const last = i32x4.splat(bins);
  const size = (<usize>(bins + 1)) << 2;
  const second = tables + size;
  const third = second + size;
  const fourth = third + size;
  const end = values + ((<usize>length) << 2);
  const vectors = values + ((<usize>(length & ~3)) << 2);
  for (; values < vectors; values += 16) {
    const four = v128.load(values);
    const low = binsOf(four, inverse, bias);
    const high = binsOf(upper(four), inverse, bias);
    const indices = i32x4.min_u(v128.shuffle<u32>(low, high, 0, 2, 4, 6), last);
    count(tables, i32x4.extract_lane(indices, 0));
    count(second, i32x4.extract_lane(indices, 1));
    count(third, i32x4.extract_lane(indices, 2));
    count(fourth, i32x4.extract_lane(indices, 3));
  }
  for (; values < end; values += 4) {
    const index = i32x4.min_u(binsOf(v128.load32_splat(values), inverse, bias), last);
    count(tables, i32x4.extract_lane(index, 0));
  }
}

/** The side of a tile of products. */
const side = 64;

const left: usize = memory.data(32768, 16);
const right: usize = memory.data(32768, 16);

/** Copies up to `side` columns next to each other, with zeros behind. */
function gather(values: usize, rows: i32, columns: i32, column: i32, target: usize): void {
  const width = min(side, columns - column);
  const bytes = (<usize>width) << 2;
  for (let row = 0; row < rows; row++) {
    memory.copy(target, values + ((<usize>row * <usize>columns + <usize>column) << 2), bytes);
    if (width < side) memory.fill(target + bytes, 0, ((<usize>side) << 2) - bytes);
    target += (<usize>side) << 2;
  }
}

/** The sums of products of `side` columns from `column` on with as many from `other` on, over up to 128 rows, in single precision. */
export function products(values: usize, rows: i32, columns: i32, column: i32, other: i32, out: usize): void {
  gather(values, rows, columns, column, left);
  gather(values, rows, columns, other, right);
  const end = (<usize>rows) << 8;
  for (let i: usize = 0; i < (<usize>side) << 2; i += 16) {
    for (let j: usize = 0; j < (<usize>side) << 2; j += 32) {
      let a = f32x4.splat(0);
      let b = f32x4.splat(0);
      let c = f32x4.splat(0);
      let d = f32x4.splat(0);
      let e = f32x4.splat(0);
      let f = f32x4.splat(0);
      let g = f32x4.splat(0);
      let h = f32x4.splat(0);
      for (let row: usize = 0; row < end; row += 256) {
        const x = v128.load(right + row + j);
        const y = v128.load(right + row + j, 16);
        const first = v128.load32_splat(left + row + i);
        const second = v128.load32_splat(left + row + i, 4);
        const third = v128.load32_splat(left + row + i, 8);
        const fourth = v128.load32_splat(left + row + i, 12);
        a = f32x4.add(a, f32x4.mul(first, x));
        b = f32x4.add(b, f32x4.mul(first, y));
        c = f32x4.add(c, f32x4.mul(second, x));
        d = f32x4.add(d, f32x4.mul(second, y));
        e = f32x4.add(e, f32x4.mul(third, x));
        f = f32x4.add(f, f32x4.mul(third, y));
        g = f32x4.add(g, f32x4.mul(fourth, x));
        h = f32x4.add(h, f32x4.mul(fourth, y));
      }
      const at = out + (i << 6) + j;
      v128.store(at, a);
      v128.store(at, b, 16);
      v128.store(at, c, 256);
      v128.store(at, d, 272);
      v128.store(at, e, 512);
      v128.store(at, f, 528);
      v128.store(at, g, 768);
      v128.store(at, h, 784);
    }
  }
}
