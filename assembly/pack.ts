/** Codes to dense bits and back: eight codes of one byte each fill `bits` bytes. */

const everyByte: u64 = 0x0101010101010101;

/** Packs `count` codes less `lowest`, rounded up to eight; may write up to eight bytes more than they fill. */
export function pack(codes: usize, count: i32, bits: i32, lowest: i32, bytes: usize): void {
  const base = i8x16.splat(<i8>lowest);
  const end = codes + <usize>count;
  if (bits === 4) {
    // Two codes in 16 bits: the first stays, the second moves down beside it.
    const first = i16x8.splat(0x000f);
    const second = i16x8.splat(0x00f0);
    for (const vectors = codes + <usize>(count & ~31); codes < vectors; codes += 32, bytes += 16) {
      const a = i8x16.sub(v128.load(codes), base);
      const b = i8x16.sub(v128.load(codes, 16), base);
      const low = v128.or(v128.and(a, first), v128.and(i16x8.shr_u(a, 4), second));
      const high = v128.or(v128.and(b, first), v128.and(i16x8.shr_u(b, 4), second));
      v128.store(bytes, i8x16.narrow_i16x8_u(low, high));
    }
  } else if (bits === 1) {
    for (const vectors = codes + <usize>(count & ~15); codes < vectors; codes += 16, bytes += 2) {
      store<u16>(bytes, <u16>i8x16.bitmask(i16x8.shl(i8x16.sub(v128.load(codes), base), 7)));
    }
  }
  const mask = (((<u64>1) << bits) - 1) * everyByte;
  for (; codes < end; codes += 8, bytes += <usize>bits) {
    let word = i64x2.extract_lane(i8x16.sub(v128.load64_zero(codes), base), 0) & mask;
    word = (word & 0x00ff00ff00ff00ff) | ((word & 0xff00ff00ff00ff00) >> (8 - bits));
    word = (word & 0x0000ffff0000ffff) | ((word & 0xffff0000ffff0000) >> (16 - 2 * bits));
    word = (word & 0x00000000ffffffff) | ((word >> 32) << (4 * bits));
    store<u64>(bytes, word);
  }
}

/** Eight codes from the lowest 8·bits bits of a word. */
function spread(word: u64, bits: i32): u64 {
  const quad: u64 = ((<u64>1) << (4 * bits)) - 1;
  const pair: u64 = (((<u64>1) << (2 * bits)) - 1) * 0x0000000100000001;
  const one: u64 = (((<u64>1) << bits) - 1) * 0x0001000100010001;
  word = (word & quad) | (((word >> (4 * bits)) & quad) << 32);
  word = (word & pair) | (((word >> (2 * bits)) & pair) << 16);
  return (word & one) | (((word >> bits) & one) << 8);
}

/** Unpacks `count` codes, rounded up to sixteen; reads up to eight bytes more than they fill. */
export function unpack(bytes: usize, count: i32, bits: i32, signed: bool, codes: usize): void {
  // Flipping the sign bit and taking it away again extends it over the byte.
  const signBit: i32 = signed ? 1 << (bits - 1) : 0;
  const sign = i8x16.splat(<i8>signBit);
  const end = codes + <usize>count;
  if (bits === 4) {
    const mask = i16x8.splat(0x000f);
    for (const vectors = codes + <usize>(count & ~15); codes < vectors; codes += 16, bytes += 8) {
      const wide = v128.load8x8_u(bytes);
      const word = v128.or(v128.and(wide, mask), v128.shl<i16>(v128.andnot(wide, mask), 4));
      v128.store(codes, i8x16.sub(v128.xor(word, sign), sign));
    }
  }
  for (; codes < end; codes += 16, bytes += <usize>(2 * bits)) {
    const word = i64x2.replace_lane(
      i64x2.splat(spread(load<u64>(bytes), bits)),
      1,
      spread(load<u64>(bytes + <usize>bits), bits),
    );
    v128.store(codes, i8x16.sub(v128.xor(word, sign), sign));
  }
}
