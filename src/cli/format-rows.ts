/** The table of formats: a row for every number format and every named scheme, made from their entries. */
import { measured } from '../formats/generated/measured.ts';
import { type Format, formatOf, formats } from '../formats/index.ts';
import { type NamedScheme, namedSchemes } from '../formats/named.ts';
import { formatScheme, parseScheme } from '../formats/scheme.ts';
import { assumedColumns, bitsPerWeight, levelCount } from '../formats/size.ts';
import { type NativeKernel, nativeKernels, type Provider, unpackedBy } from '../lowerings/natively.ts';

/** Signal to quantization noise in dB: numbers of a normal and of a Laplace distribution, scales found by search. */
export interface Ratio {
  readonly gaussian: number;
  readonly laplace: number;
}

/** What was measured, by scheme as `formatScheme` writes it. */
export type Measured = Readonly<Record<string, readonly [gaussian: number, laplace: number]>>;

export interface FormatRow {
  readonly id: string;
  readonly summary: string;
  readonly kind: Format['kind'] | 'scheme';
  /** The scheme when nothing but the id is said. */
  readonly scheme: string;
  /** Bits of a weight in the file under `scheme`, with scales and zero points; rows of 1024 where a row shares them. */
  readonly bitsPerWeight: number;
  /** Different levels of a block, or of a tensor. */
  readonly levels: number;
  /** Under `scheme`; in blocks of 32 and of 128, and for the whole tensor, for formats that have scales or codebooks. */
  readonly sqnr: {
    readonly default: Ratio;
    readonly g32?: Ratio;
    readonly g128?: Ratio;
    readonly tensor?: Ratio;
  };
  /** Kernels of ONNX Runtime that read the codes, in blocks or as `scheme` says; none: float kernels. */
  readonly runsNatively: readonly NativeKernel[];
  /** Without such kernels: how the float constant is made when the file is loaded. */
  readonly unpackedBy?: 'cast' | 'unpack';
}

/** What a row's ratios are of; see `FormatRow.sqnr`. */
type Share = 'default' | 'g32' | 'g128' | 'tensor';

/** The schemes whose ratios a row shows. */
export function schemesOf(id: string): ReadonlyMap<Share, string> {
  const scheme = parseScheme(id);
  const { kind } = formatOf(scheme.format);
  const shares =
    kind === 'float' ? [] : kind === 'codebook' ? (['g32', 'g128', 'tensor'] as const) : (['g32', 'g128'] as const);
  return new Map<Share, string>([
    ['default', formatScheme(scheme)],
    ...shares.map((share) => [share, formatScheme(parseScheme(`${id}:${share}`))] as const),
  ]);
}

/** The rows in the order of the lists. @param ratios default: those measured last */
export function formatRows(ratios: Measured = measured): FormatRow[] {
  const named: readonly NamedScheme[] = namedSchemes;
  return [
    ...formats.map(({ id, summary, kind }) => rowOf(id, summary, kind, ratios)),
    ...named.map(({ id, summary }) => rowOf(id, summary, 'scheme', ratios)),
  ];
}

function rowOf(id: string, summary: string, kind: FormatRow['kind'], ratios: Measured): FormatRow {
  const schemes = schemesOf(id);
  const scheme = parseScheme(id);
  const sqnr: Partial<Record<Share, Ratio>> = {};
  for (const [share, text] of schemes) {
    const [gaussian, laplace] = ratios[text] ?? [Number.NaN, Number.NaN];
    sqnr[share] = { gaussian, laplace };
  }
  const own = nativeKernels(scheme);
  const blocks = schemes.get('g32');
  const inBlocks = blocks === undefined ? [] : nativeKernels(parseScheme(blocks));
  const kernels = [...own, ...inBlocks.filter(({ name }) => own.every((kernel) => kernel.name !== name))];
  return {
    id,
    summary,
    kind,
    scheme: formatScheme(scheme),
    bitsPerWeight: bitsPerWeight(scheme, assumedColumns),
    levels: levelCount(formatOf(scheme.format)),
    sqnr: sqnr as FormatRow['sqnr'],
    runsNatively: kernels,
    ...(kernels.length === 0 ? { unpackedBy: unpackedBy(scheme) } : {}),
  };
}

const shortNames: Readonly<Record<Provider, string>> = { CPU: 'CPU', WebAssembly: 'WASM', WebGPU: 'WebGPU' };

/** What has kernels that read the codes: `CPU WASM WebGPU`; a dash for nothing. */
export function runsOn({ runsNatively }: FormatRow): string {
  const found = new Set(runsNatively.flatMap(({ on }) => on));
  return found.size === 0 ? '–' : [...found].map((provider) => shortNames[provider]).join(' ');
}

/** The names of the kernels: `integer, 8-bit`; without any, how the weight becomes float. */
export function kernelsOf({ runsNatively, unpackedBy: how }: FormatRow): string {
  if (runsNatively.length > 0) return runsNatively.map(({ name }) => name).join(', ');
  return how === 'cast' ? 'float, by Cast' : 'float, unpacked';
}

/** Bits as they are shown: without digits that say nothing. */
export function shownBits(bits: number): string {
  return String(Number(bits.toFixed(3)));
}
