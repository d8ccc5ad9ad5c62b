/**
 * A WebAssembly module's memory, laid out: the module's own data, an arena that arrays are copied into window by window,
 * and the room that callers may fill themselves. Nothing grows.
 */
import type { Elements } from '../kernel.ts';

type Numbers = Elements | Float64Array;

/** The room begins here. */
const roomStart = 6 * 2 ** 20;

/** The largest region that `room` gives out of its own memory. */
export const roomLimit = 16 * 2 ** 20;

/** Behind the room lies the desk, and behind that 2 MiB that catch reads beyond its end. */
const deskStart = roomStart + roomLimit + 4096;

/** The largest region that `desk` gives out of its own memory. */
export const deskLimit = 2 ** 21;

/** Elements of one window: with the codes made of them they stay in the second-level cache. */
export const windowLimit = 2 ** 16;

/** Bytes that a kernel may read or write behind an array. */
const slack = 64;

interface Pending {
  readonly target: Numbers;
  readonly start: number;
  readonly address: number;
  readonly count: number;
}

const bytesOf = (array: Numbers, start: number, count: number) =>
  new Uint8Array(array.buffer, array.byteOffset + start * array.BYTES_PER_ELEMENT, count * array.BYTES_PER_ELEMENT);

/** Addresses for arrays, valid from one `reset` to the next. */
export class Arena {
  readonly #bytes: Uint8Array;
  /** Where the arena begins, behind the module's data. */
  readonly #start: number;
  #next: number;
  #pending: Pending[] = [];

  constructor(memory: WebAssembly.Memory, start: number) {
    this.#bytes = new Uint8Array(memory.buffer);
    this.#start = (start + 15) & ~15;
    this.#next = this.#start;
  }

  /** The first free address. */
  get next(): number {
    return this.#next;
  }

  /** See `Kernel.room`. */
  room(bytes: number): Uint8Array {
    return bytes <= roomLimit ? this.#bytes.subarray(roomStart, roomStart + bytes) : new Uint8Array(bytes);
  }

  /** See `Kernel.desk`. */
  desk(bytes: number): Uint8Array {
    return bytes <= deskLimit ? this.#bytes.subarray(deskStart, deskStart + bytes) : new Uint8Array(bytes);
  }

  /** Frees the arena from an address on; by default all of it. */
  reset(address = this.#start): void {
    this.#next = address;
  }

  /** Whether an array lies in this memory, so that it needs no copy. */
  holds(array: Numbers): boolean {
    return array.buffer === this.#bytes.buffer;
  }

  /** An address with room for some bytes. */
  reserve(bytes: number): number {
    const address = this.#next;
    this.#next = (address + bytes + slack + 15) & ~15;
    return address;
  }

  /** Zeros. */
  zeros(bytes: number): number {
    const address = this.reserve(bytes);
    this.#bytes.fill(0, address, address + bytes);
    return address;
  }

  /** Sets bytes to one number. */
  fill(address: number, bytes: number, value: number): void {
    this.#bytes.fill(value, address, address + bytes);
  }

  /** The memory as an array of floats, from an address on. */
  floats(address: number, count: number): Float32Array {
    return new Float32Array(this.#bytes.buffer, address, count);
  }

  /** The same for doubles. */
  doubles(address: number, count: number): Float64Array {
    return new Float64Array(this.#bytes.buffer, address, count);
  }

  /** The same for counters. */
  counters(address: number, count: number): Uint32Array {
    return new Uint32Array(this.#bytes.buffer, address, count);
  }

  /** The address of elements to read. */
  input(array: Numbers, start: number, count: number): number {
    if (this.holds(array)) return array.byteOffset + start * array.BYTES_PER_ELEMENT;
    return this.copy(array, start, count);
  }

  /** The address of a copy of elements, with zeros behind it. */
  copy(array: Numbers, start: number, count: number): number {
    const bytes = bytesOf(array, start, count);
    const address = this.reserve(bytes.length);
    this.#bytes.set(bytes, address);
    this.#bytes.fill(0, address + bytes.length, this.#next);
    return address;
  }

  /** Copies elements to an address. */
  store(address: number, array: Numbers, start: number, count: number): void {
    this.#bytes.set(bytesOf(array, start, count), address);
  }

  /** The address to write elements to; `deliver` brings them to the array if it lies elsewhere. */
  output(target: Numbers, start: number, count: number): number {
    if (this.holds(target)) return target.byteOffset + start * target.BYTES_PER_ELEMENT;
    const address = this.reserve(count * target.BYTES_PER_ELEMENT);
    this.#pending.push({ target, start, address, count });
    return address;
  }

  /** Copies all outputs to where they belong, and frees the whole arena. */
  deliver(): void {
    for (const { target, start, address, count } of this.#pending) this.fetch(address, target, start, count);
    this.#pending = [];
    this.reset();
  }

  /** Copies elements at an address into an array. */
  fetch(address: number, target: Numbers, start: number, count: number): void {
    const bytes = count * target.BYTES_PER_ELEMENT;
    bytesOf(target, start, count).set(this.#bytes.subarray(address, address + bytes));
  }
}
