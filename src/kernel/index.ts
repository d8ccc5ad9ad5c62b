/** Kernels: the interface, the reference, and quantized matrices by kernel. */
export { roundHalfToEven } from '../base/round.ts';
export type { BlockLayout, ChannelLayout, Extent, Kernel } from './kernel.ts';
export { dequantizeMatrix, matrixError, quantizeMatrix, signalToNoise } from './matrix.ts';
export { dequantizeValue, quantizeValue, reference } from './reference.ts';
