/**
 * Reads Python pickles as data. Nothing is looked up, imported or called: a global is a name, and what a pickle "calls" or
 * "builds" becomes a plain record, unless the caller supplies a meaning for it.
 * Opcodes: CPython 3.13, Lib/pickletools.py, protocols 2 to 5, and those of older ones that Python 2 still wrote.
 */
import { HalftoneError } from '../../base/errors.ts';

/** The name of a Python class or function. */
export class Global {
  readonly module: string;
  readonly name: string;

  constructor(module: string, name: string) {
    this.module = module;
    this.name = name;
  }

  /** `module.name`, with Python 2's name of the builtins replaced by today's. */
  get path(): string {
    return `${this.module === '__builtin__' ? 'builtins' : this.module}.${this.name}`;
  }
}

/** What a pickle says about an object of some class: the arguments of its making, its state, its items. Inert. */
export class Instance {
  readonly type: unknown;
  readonly args: unknown;
  state: unknown = undefined;
  readonly items = new Map<unknown, unknown>();
  readonly list: unknown[] = [];

  constructor(type: unknown, args: unknown) {
    this.type = type;
    this.args = args;
  }
}

/** Meanings the caller supplies. */
export interface PickleHooks {
  /** The object that a persistent id stands for. */
  persistent(id: unknown): unknown;
  /** The value of `callable(*args)`; undefined makes an inert `Instance`. */
  reduce(callable: Global, args: readonly unknown[]): unknown;
}

export interface Unpickled {
  /** Dicts are Maps, lists, tuples and sets arrays, None null, integers beyond 2^53 bigints, bytes Uint8Arrays. */
  readonly value: unknown;
  /** The offset just after the pickle. */
  readonly end: number;
}

/**
 * Reads the pickle at `start`. Time and memory are in proportion to its bytes.
 * @throws HalftoneError `invalid-file` naming the offset for damaged bytes, `unsupported` for opcodes data does not need.
 */
export function unpickle(bytes: Uint8Array, start: number, hooks: PickleHooks, subject: string): Unpickled {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder();
  const stack: unknown[] = [];
  const marks: number[] = [];
  const memo = new Map<number, unknown>();
  let at = start;

  const fail = (expected: string, got: string): never => {
    throw new HalftoneError('invalid-file', `${subject}, offset ${at}: expected ${expected}, got ${got}`);
  };
  /** Moves past `count` bytes and returns where they were. */
  const step = (count: number): number => {
    if (!(count >= 0) || at + count > bytes.length) fail(`${count} more bytes`, `the end at ${bytes.length}`);
    const from = at;
    at += count;
    return from;
  };
  const slice = (count: number): Uint8Array => {
    const from = step(count);
    return bytes.subarray(from, from + count);
  };
  const u8 = (): number => view.getUint8(step(1));
  const u16 = (): number => view.getUint16(step(2), true);
  const u32 = (): number => view.getUint32(step(4), true);
  const u64 = (): number => Number(view.getBigUint64(step(8), true));
  const line = (): string => {
    const end = bytes.indexOf(10, at);
    if (end < 0) fail('a line', 'no end of line');
    const found = text.decode(slice(end - at));
    at += 1;
    return found;
  };
  const pop = (): unknown => {
    if (stack.length === 0 || stack.length === marks.at(-1)) fail('a value on the stack', 'none');
    return stack.pop();
  };
  const top = (): unknown => {
    if (stack.length === 0 || stack.length === marks.at(-1)) fail('a value on the stack', 'none');
    return stack[stack.length - 1];
  };
  const popMark = (): unknown[] => {
    const mark = marks.pop();
    if (mark === undefined) return fail('a mark on the stack', 'none');
    return stack.splice(mark);
  };
  const popString = (): string => {
    const value = pop();
    return typeof value === 'string' ? value : fail('a name', typeof value);
  };
  const tuple = (count: number): unknown[] => {
    const items: unknown[] = new Array(count);
    for (let i = count - 1; i >= 0; i--) items[i] = pop();
    return items;
  };
  const recall = (index: number): unknown => {
    if (!memo.has(index)) fail(`memo ${index}`, 'none');
    return memo.get(index);
  };
  const setItems = (items: readonly unknown[]): void => {
    const target = top();
    const map =
      target instanceof Map ? target : target instanceof Instance ? target.items : fail('a dict', typeof target);
    if (items.length % 2 === 1) fail('keys with values', 'a key alone');
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  };
  const append = (items: readonly unknown[]): void => {
    const target = top();
    const list = Array.isArray(target)
      ? target
      : target instanceof Instance
        ? target.list
        : fail('a list', typeof target);
    for (const item of items) list.push(item);
  };
  const call = (callable: unknown, args: unknown): unknown => {
    if (callable instanceof Global && Array.isArray(args)) {
      const value = hooks.reduce(callable, args);
      if (value !== undefined) return value;
    }
    return new Instance(callable, args);
  };
  const build = (state: unknown): void => {
    const target = top();
    if (target instanceof Instance) target.state = state;
  };

  for (;;) {
    const opcode = u8();
    switch (opcode) {
      case 0x80: // PROTO
        if (u8() > 5) fail('pickle protocol 0 to 5', 'a later one');
        break;
      case 0x95: // FRAME
        step(8);
        break;
      case 0x2e: // STOP
        return { value: pop(), end: at };
      case 0x28: // MARK
        marks.push(stack.length);
        break;
      case 0x30: // POP
        if (stack.length === marks.at(-1)) marks.pop();
        else pop();
        break;
      case 0x31: // POP_MARK
        popMark();
        break;
      case 0x32: // DUP
        stack.push(top());
        break;
      case 0x4e: // NONE
        stack.push(null);
        break;
      case 0x88: // NEWTRUE
        stack.push(true);
        break;
      case 0x89: // NEWFALSE
        stack.push(false);
        break;
      case 0x4a: // BININT
        stack.push(view.getInt32(step(4), true));
        break;
      case 0x4b: // BININT1
        stack.push(u8());
        break;
      case 0x4d: // BININT2
        stack.push(u16());
        break;
      case 0x8a: // LONG1
        stack.push(longOf(slice(u8())));
        break;
      case 0x8b: {
        // LONG4
        const length = u32();
        if (length > 4096) fail('an integer of at most 4096 bytes', `${length}`);
        stack.push(longOf(slice(length)));
        break;
      }
      case 0x49: // INT
      case 0x4c: // LONG
        stack.push(integerOf(line(), fail));
        break;
      case 0x47: // BINFLOAT
        stack.push(view.getFloat64(step(8), false));
        break;
      case 0x46: // FLOAT
        stack.push(Number(line()));
        break;
      case 0x58: // BINUNICODE
        stack.push(text.decode(slice(u32())));
        break;
      case 0x8c: // SHORT_BINUNICODE
        stack.push(text.decode(slice(u8())));
        break;
      case 0x8d: // BINUNICODE8
        stack.push(text.decode(slice(u64())));
        break;
      case 0x56: // UNICODE
        stack.push(line());
        break;
      case 0x54: // BINSTRING, Python 2's str
        stack.push(text.decode(slice(u32())));
        break;
      case 0x55: // SHORT_BINSTRING
        stack.push(text.decode(slice(u8())));
        break;
      case 0x53: // STRING
        stack.push(line().replace(/^(['"])(.*)\1$/, '$2'));
        break;
      case 0x42: // BINBYTES
        stack.push(slice(u32()));
        break;
      case 0x43: // SHORT_BINBYTES
        stack.push(slice(u8()));
        break;
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        stack.push(slice(u64()));
        break;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        break;
      case 0x64: {
        // DICT
        const items = popMark();
        stack.push(new Map());
        setItems(items);
        break;
      }
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
      case 0x8f: // EMPTY_SET
        stack.push([]);
        break;
      case 0x6c: // LIST
      case 0x74: // TUPLE
      case 0x91: // FROZENSET
        stack.push(popMark());
        break;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        stack.push(tuple(opcode - 0x84));
        break;
      case 0x61: // APPEND
        append([pop()]);
        break;
      case 0x65: // APPENDS
      case 0x90: // ADDITEMS
        append(popMark());
        break;
      case 0x73: // SETITEM
        setItems(tuple(2));
        break;
      case 0x75: // SETITEMS
        setItems(popMark());
        break;
      case 0x70: // PUT
        memo.set(Number(line()), top());
        break;
      case 0x71: // BINPUT
        memo.set(u8(), top());
        break;
      case 0x72: // LONG_BINPUT
        memo.set(u32(), top());
        break;
      case 0x94: // MEMOIZE
        memo.set(memo.size, top());
        break;
      case 0x67: // GET
        stack.push(recall(Number(line())));
        break;
      case 0x68: // BINGET
        stack.push(recall(u8()));
        break;
      case 0x6a: // LONG_BINGET
        stack.push(recall(u32()));
        break;
      case 0x63: // GLOBAL
        stack.push(new Global(line(), line()));
        break;
      case 0x93: {
        // STACK_GLOBAL
        const name = popString();
        stack.push(new Global(popString(), name));
        break;
      }
      case 0x52: // REDUCE
      case 0x81: {
        // NEWOBJ
        const args = pop();
        stack.push(call(pop(), args));
        break;
      }
      case 0x92: {
        // NEWOBJ_EX
        const [type, args] = tuple(3);
        stack.push(new Instance(type, args));
        break;
      }
      case 0x62: // BUILD
        build(pop());
        break;
      case 0x51: // BINPERSID
        stack.push(hooks.persistent(pop()));
        break;
      case 0x50: // PERSID
        stack.push(hooks.persistent(line()));
        break;
      default:
        at -= 1;
        throw new HalftoneError(
          'unsupported',
          `${subject}, offset ${at}: expected a pickle opcode for data, got 0x${opcode.toString(16)}; save the tensors alone, with torch.save(model.state_dict(), path)`,
        );
    }
  }
}

/** Little-endian two's complement; a number where it is exact, else a bigint. */
function longOf(bytes: Uint8Array): number | bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
  const result = BigInt.asIntN(bytes.length * 8, value);
  const number = Number(result);
  return Number.isSafeInteger(number) ? number : result;
}

function integerOf(text: string, fail: (expected: string, got: string) => never): number | boolean {
  if (text === '00' || text === '01') return text === '01';
  const number = Number(text.replace(/L$/, ''));
  return Number.isInteger(number) ? number : fail('an integer', text.slice(0, 40));
}
