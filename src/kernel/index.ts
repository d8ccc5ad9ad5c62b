/** Kernels: the interface, the reference, and quantized matrices by kernel. */
export { roundHalfToEven } from '../base/round.ts';
export { bestKernel } from './best.ts';
export { chooseCodes, improveCodes, type Rounder } from './compensation.ts';
export { coverInterval, type Grid, type Parameters, roundStored } from './grid.ts';
export type {
  BlockLayout,
  ChannelLayout,
  CodeBlock,
  CodeRange,
  Elements,
  Extent,
  FloatCodes,
  Kernel,
  Noise,
  RowGrids,
  ShortFloat,
} from './kernel.ts';
export { decodeLevels, encodeLevels, Levels, levelsOf } from './levels.ts';
export { blockLayout, dequantizeMatrix, matrixError, quantizeMatrix, signalToNoise } from './matrix.ts';
export { dequantizeValue, quantizeValue, reference } from './reference.ts';
export {
  loadedMatrix,
  type MatrixBytes,
  type MatrixParameters,
  matrixBytes,
  parameterBytes,
  storedMatrix,
  zeroPointBytes,
} from './stored.ts';
export { createWasmKernel } from './wasm.ts';
