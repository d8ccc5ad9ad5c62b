/** Signal to quantization noise of schemes on made-up numbers: what the tables of formats show. */
import { createGaussian, createRandom } from '../src/base/random.ts';
import { formatOf } from '../src/formats/index.ts';
import { parseScheme } from '../src/formats/scheme.ts';
import { reference, signalToNoise } from '../src/kernel/index.ts';
import { solverOf } from '../src/solvers/index.ts';
import { Tensor } from '../src/tensor/tensor.ts';

/** Numbers that are measured on, in rows of `columns`. */
export const numbers = { count: 2 ** 19, columns: 1024 } as const;

/** Standard normal numbers, seeded. */
export function gaussianNumbers(count: number = numbers.count): Float32Array {
  return Float32Array.from({ length: count }, createGaussian(createRandom(1)));
}

/** Numbers of the Laplace distribution with mean magnitude 1, seeded, by inverse transform. */
export function laplaceNumbers(count: number = numbers.count): Float32Array {
  const random = createRandom(2);
  return Float32Array.from({ length: count }, () => {
    const u = random() - 0.5;
    // The least that `random` gives is 0, whose logarithm is none.
    return -Math.sign(u) * Math.log(1 - 2 * Math.min(Math.abs(u), 0.5 - 2 ** -33));
  });
}

/** The ratio in dB of numbers quantized under a scheme by the solver `search`. */
export function ratioOf(values: Float32Array, text: string): number {
  const scheme = parseScheme(text);
  const { columns } = numbers;
  if (formatOf(scheme.format).kind === 'float') {
    const rounded = Tensor.float32([values.length], values)
      .converted(scheme.format as 'float16' | 'bfloat16')
      .floats();
    const signal = reference.squaredError(values, new Float32Array(values.length));
    return 10 * Math.log10(signal / reference.squaredError(values, rounded));
  }
  return signalToNoise(values, solverOf('search').solve(values, values.length / columns, columns, scheme));
}
