/**
 * Reads zip archives held in memory: the container of `.npz` and of PyTorch's `.pth`.
 * Stored entries are views of the archive; deflated ones are inflated on demand, never beyond a bound taken from the file.
 * Field layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14-16 (ends).
 */
import { Inflate, inflateSync } from 'fflate';
import { HalftoneError, messageOf } from '../base/errors.ts';

export interface ZipEntry {
  readonly name: string;
  /** Bytes once unpacked, as the archive declares them (checked by `read`). */
  readonly size: number;
  /** The first bytes of the entry: at most `count`, fewer when it is shorter. */
  peek(count: number): Uint8Array;
  /**
   * The whole entry: a view of the archive where it is stored, fresh bytes where it is deflated.
   * @throws HalftoneError `invalid-file` when the size or the checksum is not what the archive declares.
   */
  read(): Uint8Array;
}

/** Deflate cannot pack better than this (RFC 1951: 258 bytes from 2 bits), so a larger declared size is a lie. */
const maxDeflateRatio = 1032;
/** The largest single entry that is inflated in memory. */
const maxInflatedSize = 2 ** 31;

function invalid(subject: string, expected: string, got: string): HalftoneError {
  return new HalftoneError('invalid-file', `${subject}: expected ${expected}, got ${got}`);
}

/** True when the bytes start as a zip archive does. */
export function isZip(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && bytes[0] === 0x50 && bytes[1] === 0x4b && (bytes[2] === 3 || bytes[2] === 5);
}

/**
 * The entries of an archive by name, in the order of its directory. Nothing is unpacked yet.
 * @param subject what to call the archive in messages
 * @throws HalftoneError `invalid-file` for a damaged archive, `unsupported` for encryption and other packings.
 */
export function readZip(bytes: Uint8Array, subject = 'zip archive'): ReadonlyMap<string, ZipEntry> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const directory = findDirectory(bytes, view, subject);
  const entries = new Map<string, ZipEntry>();
  const decoder = new TextDecoder();
  let at = directory.offset;
  for (let i = 0; i < directory.count; i++) {
    if (at + 46 > directory.end || view.getUint32(at, true) !== 0x02014b50) {
      throw invalid(subject, `${directory.count} directory entries`, `no entry ${i} at offset ${at}`);
    }
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const next = at + 46 + nameLength + extraLength + commentLength;
    if (next > directory.end) throw invalid(subject, `an entry that ends before ${directory.end}`, `an end at ${next}`);
    const name = decoder.decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const numbers = readSizes(view, at, at + 46 + nameLength, extraLength, `${subject}: entry ${name}`);
    entries.set(
      name,
      createEntry(bytes, view, `${subject}: entry ${name}`, {
        name,
        flags: view.getUint16(at + 8, true),
        method: view.getUint16(at + 10, true),
        checksum: view.getUint32(at + 16, true),
        ...numbers,
      }),
    );
    at = next;
  }
  return entries;
}

interface Directory {
  readonly offset: number;
  readonly end: number;
  readonly count: number;
}

function findDirectory(bytes: Uint8Array, view: DataView, subject: string): Directory {
  const lowest = Math.max(0, bytes.length - 22 - 0xffff);
  for (let at = bytes.length - 22; at >= lowest; at--) {
    if (view.getUint32(at, true) !== 0x06054b50) continue;
    let count = view.getUint16(at + 10, true);
    let size = view.getUint32(at + 12, true);
    let offset = view.getUint32(at + 16, true);
    if ((count === 0xffff || size === 0xffffffff || offset === 0xffffffff) && at >= 20) {
      const end64 = view.getUint32(at - 20, true) === 0x07064b50 ? Number(view.getBigUint64(at - 12, true)) : -1;
      if (end64 >= 0 && end64 + 56 <= bytes.length && view.getUint32(end64, true) === 0x06064b50) {
        count = Number(view.getBigUint64(end64 + 32, true));
        size = Number(view.getBigUint64(end64 + 40, true));
        offset = Number(view.getBigUint64(end64 + 48, true));
      }
    }
    if (offset + size > at || count * 46 > size) {
      throw invalid(
        subject,
        `a directory before offset ${at}`,
        `${count} entries in ${size} bytes at ${offset}; is the file whole?`,
      );
    }
    return { offset, end: offset + size, count };
  }
  throw invalid(subject, 'a zip directory at the end', `${bytes.length} bytes without one; is the file whole?`);
}

interface Sizes {
  readonly size: number;
  readonly packedSize: number;
  readonly header: number;
}

function readSizes(view: DataView, at: number, extraAt: number, extraLength: number, subject: string): Sizes {
  let packedSize = view.getUint32(at + 20, true);
  let size = view.getUint32(at + 24, true);
  let header = view.getUint32(at + 42, true);
  let field = extraAt;
  const end = extraAt + extraLength;
  while (field + 4 <= end) {
    const tag = view.getUint16(field, true);
    const next = field + 4 + view.getUint16(field + 2, true);
    if (next > end) break;
    if (tag === 1) {
      let from = field + 4;
      const take = (current: number): number => {
        if (current !== 0xffffffff) return current;
        if (from + 8 > next) throw invalid(subject, 'a 64-bit size', 'a zip64 field that is too short');
        const value = Number(view.getBigUint64(from, true));
        from += 8;
        return value;
      };
      size = take(size);
      packedSize = take(packedSize);
      header = take(header);
    }
    field = next;
  }
  return { size, packedSize, header };
}

interface Record extends Sizes {
  readonly name: string;
  readonly flags: number;
  readonly method: number;
  readonly checksum: number;
}

function createEntry(bytes: Uint8Array, view: DataView, subject: string, record: Record): ZipEntry {
  const { name, size, packedSize, header, method } = record;
  if (record.flags & 1) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected a readable entry, got an encrypted one; decrypt it first`,
    );
  }
  if (method !== 0 && method !== 8) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected a stored or deflated entry, got compression method ${method}; pack it again with deflate`,
    );
  }
  const packed = (): Uint8Array => {
    if (header + 30 > bytes.length || view.getUint32(header, true) !== 0x04034b50) {
      throw invalid(subject, `a local header at offset ${header}`, 'other bytes');
    }
    const start = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    if (start + packedSize > bytes.length) {
      throw invalid(subject, `${packedSize} bytes at offset ${start}`, `an archive of ${bytes.length} bytes`);
    }
    if (method === 0 ? size !== packedSize : size > packedSize * maxDeflateRatio) {
      throw invalid(subject, `a size that ${packedSize} packed bytes can hold`, `${size}`);
    }
    return bytes.subarray(start, start + packedSize);
  };
  return {
    name,
    size,
    peek(count) {
      const data = packed();
      return method === 0 ? data.subarray(0, count) : inflateStart(data, count, subject);
    },
    read() {
      const data = packed();
      const whole = method === 0 ? data : inflateWhole(data, size, subject);
      // PyTorch writes 0 where it was told to compute none (torch.serialization.set_crc32_options, pytorch pull 137735).
      if (record.checksum !== 0 && crc32(whole) !== record.checksum) {
        throw invalid(subject, `checksum ${record.checksum.toString(16)}`, 'other bytes; the file is damaged');
      }
      return whole;
    },
  };
}

function inflateWhole(data: Uint8Array, size: number, subject: string): Uint8Array {
  if (size > maxInflatedSize) {
    throw new HalftoneError(
      'unsupported',
      `${subject}: expected at most ${maxInflatedSize} bytes once inflated, got ${size}; store it without compression or in parts`,
    );
  }
  try {
    const whole = inflateSync(data, { out: new Uint8Array(size) });
    if (whole.length === size) return whole;
    throw invalid(subject, `${size} inflated bytes`, `${whole.length}`);
  } catch (error) {
    if (error instanceof HalftoneError) throw error;
    throw new HalftoneError('invalid-file', `${subject}: expected deflated bytes, got ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Inflates only as much of the input as can matter for `count` bytes of output. */
function inflateStart(data: Uint8Array, count: number, subject: string): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  const stream = new Inflate((part) => {
    parts.push(part);
    length += part.length;
  });
  try {
    for (let at = 0; at < data.length && length < count; at += 1024) {
      stream.push(data.subarray(at, at + 1024), at + 1024 >= data.length);
    }
  } catch (error) {
    throw new HalftoneError('invalid-file', `${subject}: expected deflated bytes, got ${messageOf(error)}`, {
      cause: error,
    });
  }
  const start = new Uint8Array(Math.min(length, count));
  let at = 0;
  for (const part of parts) {
    start.set(part.subarray(0, start.length - at), at);
    at = Math.min(start.length, at + part.length);
  }
  return start;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  // The reflected polynomial of APPNOTE.TXT 4.4.7.
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** The CRC-32 of zip (APPNOTE.TXT 4.4.7). */
export function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = crcTable[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
