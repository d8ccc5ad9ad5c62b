/** Schemes that have names of their own: a format with a block size and a type of scale that a specification fixes. */
import type { FormatId } from './index.ts';
import type { ScaleType } from './scheme.ts';

export interface NamedScheme<Id extends string = string> {
  readonly id: Id;
  readonly summary: string;
  readonly format: FormatId;
  /** The block size when nothing is said. */
  readonly blockSize: number;
  readonly scaleType: ScaleType;
}

/** Blocks of 32 that share a power of two (OCP Microscaling Formats 1.0, section 5.1 and table 1). */
function microscaling<const Id extends string>(id: Id, format: FormatId): NamedScheme<Id> {
  const summary = `${format} in blocks that share a power of two (OCP MX)`;
  return { id, summary, format, blockSize: 32, scaleType: 'float8e8m0' };
}

export const namedSchemes = [
  microscaling('mxfp8e4m3', 'float8e4m3fn'),
  microscaling('mxfp8e5m2', 'float8e5m2'),
  microscaling('mxfp6e2m3', 'float6e2m3'),
  microscaling('mxfp6e3m2', 'float6e3m2'),
  microscaling('mxfp4', 'float4e2m1'),
  microscaling('mxint8', 'int8'),
  {
    id: 'nvfp4',
    summary: 'float4e2m1 in blocks with a float8e4m3fn scale and one factor for the tensor (NVIDIA)',
    format: 'float4e2m1',
    blockSize: 16,
    scaleType: 'float8e4m3fn',
  },
] as const satisfies readonly NamedScheme[];
