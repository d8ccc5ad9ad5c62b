/**
 * `npx tsx bench/kernels.ts`: how fast the kernels are on one core: the reference in TypeScript, WebAssembly on arrays of
 * its caller, and WebAssembly on arrays in its own memory, beside a copy of the same floats. Prints a Markdown table.
 */
import { pathToFileURL } from 'node:url';
import { createGaussian, createRandom } from '../src/base/random.ts';
import { parseScheme } from '../src/formats/scheme.ts';
import { type CodeBlock, createWasmKernel, type Grid, type Kernel, reference } from '../src/kernel/index.ts';
import { rtn } from '../src/solvers/rtn.ts';
import { search } from '../src/solvers/search.ts';
import { table } from './report.ts';

/** 16 MiB of float32: more than the caches nearest to a core, as much as the kernel's room. */
const elements = 2 ** 22;
const columns = 4096;

/** What takes much longer sees a part of it. */
const shares = { whole: 1, part: 8, small: 64 };

interface Data {
  readonly kernel: Kernel;
  readonly values: Float32Array;
  readonly rows: number;
}

interface Case {
  readonly name: string;
  readonly share: keyof typeof shares;
  /** Prepares everything but the loop itself. */
  prepare(data: Data): () => void;
}

const gridOf = (bits: number, symmetric: boolean): Grid => ({
  min: symmetric && bits >= 8 ? 1 - 2 ** (bits - 1) : -(2 ** (bits - 1)),
  max: 2 ** (bits - 1) - 1,
  symmetric,
  zeroPoint: 0,
  floatZeroPoint: false,
  scaleType: 'float16',
  positiveScale: bits >= 8,
});

/** Parameters, codes and their layout. */
function blocksOf({ values, rows, kernel }: Data, grid: Grid, blockSize: number) {
  const layout = { rows, columns, blockSize };
  const count = rows * Math.ceil(columns / blockSize);
  const [scales, zeroPoints] = [new Float32Array(count), new Float32Array(count)];
  const codes = new Int8Array(values.length);
  kernel.cover(values, layout, grid, scales, zeroPoints);
  kernel.quantize(values, layout, scales, zeroPoints, grid.min, grid.max, codes);
  return { layout, scales, zeroPoints, codes };
}

function fitting(bits: number, blockSize: number, symmetric: boolean, weighted = false): Case {
  const block = blockSize === columns ? 'channel' : `g${blockSize}`;
  const name = `fit int${bits} ${block} ${symmetric ? 'sym' : 'asym'}${weighted ? ', importance' : ''}`;
  return {
    name,
    share: 'small',
    prepare(data) {
      const grid = gridOf(bits, symmetric);
      const { layout, scales, zeroPoints } = blocksOf(data, grid, blockSize);
      const random = createRandom(2);
      const importance = weighted ? Float32Array.from({ length: columns }, random) : undefined;
      return () => data.kernel.fit(data.values, layout, grid, importance, scales, zeroPoints);
    },
  };
}

function solving(solver: 'rtn' | 'search', text: string): Case {
  return {
    name: `${solver} ${text}, packed`,
    share: solver === 'rtn' ? 'whole' : 'small',
    prepare({ kernel, values, rows }) {
      const scheme = parseScheme(text);
      const packed = new Uint8Array(values.length / 2);
      return () => {
        const found = { rtn, search }[solver].parameters(values, rows, columns, scheme, { kernel });
        const { scales, zeroPoints, min, max } = found;
        const codes = { min, max, bits: 4, lowest: -8 };
        kernel.encode(values, { rows, columns, blockSize: 32 }, scales, zeroPoints, codes, packed);
      };
    },
  };
}

const int4 = gridOf(4, true);

const cases: readonly Case[] = [
  {
    name: 'extent',
    share: 'whole',
    prepare:
      ({ kernel, values }) =>
      () =>
        kernel.extent(values),
  },
  {
    name: 'blockExtents g32',
    share: 'whole',
    prepare(data) {
      const { layout, scales, zeroPoints } = blocksOf(data, int4, 32);
      return () => data.kernel.blockExtents(data.values, layout, scales, zeroPoints);
    },
  },
  ...[true, false].map(
    (symmetric): Case => ({
      name: `cover int4 g32 ${symmetric ? 'sym' : 'asym'}`,
      share: 'whole',
      prepare(data) {
        const grid = gridOf(4, symmetric);
        const { layout, scales, zeroPoints } = blocksOf(data, grid, 32);
        return () => data.kernel.cover(data.values, layout, grid, scales, zeroPoints);
      },
    }),
  ),
  {
    name: 'quantize int4 g32',
    share: 'whole',
    prepare(data) {
      const { layout, scales, zeroPoints, codes } = blocksOf(data, int4, 32);
      return () => data.kernel.quantize(data.values, layout, scales, zeroPoints, -8, 7, codes);
    },
  },
  {
    name: 'quantize int4 g32, packed',
    share: 'whole',
    prepare(data) {
      const { layout, scales, zeroPoints, codes } = blocksOf(data, int4, 32);
      return () => {
        data.kernel.quantize(data.values, layout, scales, zeroPoints, -8, 7, codes);
        data.kernel.pack(codes, 4);
      };
    },
  },
  {
    name: 'encode int4 g32: quantize, pack, noise',
    share: 'whole',
    prepare(data) {
      const { layout, scales, zeroPoints } = blocksOf(data, int4, 32);
      const codes = { min: -8, max: 7, bits: 4, lowest: -8 };
      const packed = new Uint8Array(data.values.length / 2);
      return () => {
        data.kernel.encode(data.values, layout, scales, zeroPoints, codes, packed);
      };
    },
  },
  {
    name: 'dequantize int4 g32',
    share: 'whole',
    prepare(data) {
      const { layout, scales, zeroPoints, codes } = blocksOf(data, int4, 32);
      const back = new Float32Array(data.values.length);
      return () => data.kernel.dequantize(codes, layout, scales, zeroPoints, back);
    },
  },
  ...[2, 3, 4].flatMap((bits): Case[] => [
    {
      name: `pack ${bits} bits`,
      share: 'whole',
      prepare(data) {
        const { codes } = blocksOf(data, gridOf(bits, true), 32);
        return () => data.kernel.pack(codes, bits);
      },
    },
    {
      name: `unpack ${bits} bits`,
      share: 'whole',
      prepare(data) {
        const bytes = data.kernel.pack(blocksOf(data, gridOf(bits, true), 32).codes, bits);
        return () => data.kernel.unpack(bytes, bits, true, data.values.length);
      },
    },
  ]),
  solving('rtn', 'int4:g32:sym'),
  solving('rtn', 'int4:g32:asym'),
  fitting(4, 32, true),
  fitting(4, 128, true),
  fitting(4, 32, true, true),
  fitting(4, 32, false),
  fitting(8, columns, true),
  fitting(8, columns, false),
  solving('search', 'int4:g32:sym'),
  ...(['chooseCodes', 'improveCodes'] as const).map(
    (name): Case => ({
      name: `${name} int4 g32, 64 columns`,
      share: 'part',
      prepare(data) {
        const { kernel, values } = data;
        const { scales, zeroPoints } = blocksOf(data, int4, 32);
        const width = 64;
        const rows = Int32Array.from({ length: values.length / width }, (_, row) => row);
        const block: CodeBlock = {
          rows,
          parameters: Int32Array.from({ length: width }, (_, column) => Math.floor(column / 32)),
          residuals: values.slice(),
          codes: new Int8Array(values.length),
          losses: new Float64Array(rows.length),
        };
        const grids = { perRow: 2, scales, zeroPoints, min: -8, max: 7 };
        const feed = new Float32Array(values.length);
        const square = Float32Array.from(
          { length: width ** 2 },
          (_, i) => 0.9 ** Math.abs(Math.floor(i / width) - (i % width)),
        );
        const pivots = new Float64Array(width).fill(1);
        const choose = () => {
          block.residuals.set(values);
          kernel.chooseCodes(block, grids, feed.fill(0), square, pivots);
        };
        choose();
        const { residuals, codes } = { residuals: block.residuals.slice(), codes: block.codes.slice() };
        const improve = () => {
          block.residuals.set(residuals);
          block.codes.set(codes);
          feed.set(residuals);
          kernel.improveCodes(block, grids, feed, square);
        };
        return name === 'chooseCodes' ? choose : improve;
      },
    }),
  ),
  {
    name: 'transpose, 4 bytes',
    share: 'whole',
    prepare({ kernel, values, rows }) {
      const out = new Float32Array(values.length);
      return () => kernel.transpose(values, rows, columns, out);
    },
  },
  {
    name: 'transpose, 1 byte',
    share: 'whole',
    prepare(data) {
      const { codes } = blocksOf(data, int4, 32);
      const out = new Int8Array(codes.length);
      return () => data.kernel.transpose(codes, data.rows, columns, out);
    },
  },
  ...(['float16', 'bfloat16', 'float8e4m3fn', 'float8e5m2'] as const).flatMap((type): Case[] => {
    const room = (count: number) => (type.endsWith('16') ? new Uint16Array(count) : new Uint8Array(count));
    return [
      {
        name: `to ${type}`,
        share: 'whole',
        prepare({ kernel, values }) {
          const codes = room(values.length);
          return () => kernel.encodeFloats(type, values, codes);
        },
      },
      {
        name: `from ${type}`,
        share: 'whole',
        prepare({ kernel, values }) {
          const codes = room(values.length);
          kernel.encodeFloats(type, values, codes);
          const back = new Float32Array(values.length);
          return () => kernel.decodeFloats(type, codes, back);
        },
      },
    ];
  }),
  {
    name: 'squaredError',
    share: 'whole',
    prepare({ kernel, values }) {
      const other = values.map((value) => value + 1);
      return () => kernel.squaredError(values, other);
    },
  },
  {
    name: 'countBins, 8192 bins',
    share: 'whole',
    prepare({ kernel, values }) {
      const counts = new Float64Array(8192);
      return () => kernel.countBins(values, 512, -4096, counts);
    },
  },
  ...[1, 1024].map(
    (inner): Case => ({
      name: inner === 1 ? 'channelSums, channels last' : 'channelSums, channels first',
      share: 'whole',
      prepare({ kernel, values, rows }) {
        const channels = columns / inner;
        const [sums, squares] = [new Float64Array(channels), new Float64Array(channels)];
        return () => kernel.channelSums(values, { outer: rows, channels, inner }, sums, squares);
      },
    }),
  ),
  {
    name: 'secondMoment, 512 columns',
    share: 'part',
    prepare({ kernel, values }) {
      const sums = new Float64Array(512 * 512);
      return () => kernel.secondMoment(values, values.length / 512, 512, sums);
    },
  },
];

/** The shortest of some runs, in seconds: at least three, for a quarter of a second. */
function shortest(run: () => void): number {
  run();
  let least = Number.POSITIVE_INFINITY;
  const start = performance.now();
  for (let i = 0; i < 3 || performance.now() - start < 250; i++) {
    const begin = performance.now();
    run();
    least = Math.min(least, performance.now() - begin);
  }
  return least / 1000;
}

/** Billions of bytes of float32 a second. */
const rate = (count: number, seconds: number) => (4e-9 * count) / seconds;
const text = (value: number) => (value < 0.1 ? value.toFixed(3) : value.toFixed(2));

/** Measures all kernels; about a minute. */
export function kernelTable(): string {
  const gaussian = createGaussian(createRandom(1));
  const all = Float32Array.from({ length: elements }, gaussian);
  const copy = new Float32Array(elements);
  const wasm = createWasmKernel();
  const room = wasm.room(elements * 4);
  const inRoom = new Float32Array(room.buffer, room.byteOffset, elements);
  inRoom.set(all);
  const copied = text(
    rate(
      elements,
      shortest(() => copy.set(all)),
    ),
  );
  const rows = cases.map(({ name, share, prepare }) => {
    const count = elements / shares[share];
    const measure = (kernel: Kernel, values: Float32Array, length: number) =>
      rate(length, shortest(prepare({ kernel, values: values.subarray(0, length), rows: length / columns })));
    const slow = measure(reference, all, Math.min(count, elements / shares.part));
    const fast = measure(wasm, all, count);
    const placed = measure(wasm, inRoom, count);
    return [name, text(slow), text(fast), text(placed), `${(fast / slow).toFixed(1)}×`];
  });
  const header = ['kernel', 'TypeScript', 'WebAssembly', 'in its own memory', 'gain'];
  return table(header, [['copy', copied, copied, copied, ''], ...rows]);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.stdout.write(
    `GB/s of float32 on one core, the same weights as floats however few bytes a kernel reads or writes.\n\n${kernelTable()}\n`,
  );
}
