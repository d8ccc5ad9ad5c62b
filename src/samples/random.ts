/** Made-up samples, for a model whose user has no data at hand: good for shapes and speed, never for accuracy. */
import { createGaussian, createRandom } from '../base/random.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { isFloat } from '../tensor/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../tensor/tensor.ts';
import { convertTo } from './convert.ts';
import { fillOf } from './fill.ts';
import type { Samples } from './sample.ts';

export interface RandomOptions {
  /** How many samples. Default 8. */
  readonly count?: number;
  /** Default 0. The same seed gives the same samples. */
  readonly seed?: number;
  /** Lengths of symbolic dimensions by name. Default: 1 for the first axis and for `batch…`, 0 for `past…`, else 16. */
  readonly dimensions?: Readonly<Record<string, number>>;
}

/**
 * Random samples in the shapes of the model: standard normal floats; uint8 0…255; other integers and booleans 0 or 1, so
 * that they are valid token ids; masks, positions and token types as `fillOf` fills them.
 */
export function randomSamples(inputs: readonly ValueInfo[], options: RandomOptions = {}): Samples {
  const { count = 8, seed = 0, dimensions = {} } = options;
  const shapes = inputs.map((input) => input.shape.map((dimension, axis) => lengthOf(dimension, axis, dimensions)));
  return {
    description: 'random',
    count,
    synthetic: true,
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      const random = createRandom(seed);
      for (let i = 0; i < count; i++) {
        const sample: Record<string, Tensor> = Object.create(null);
        for (let k = 0; k < inputs.length; k++) sample[inputs[k].name] = randomTensor(inputs[k], shapes[k], random);
        yield sample;
      }
    },
  };
}

/** A symbolic dimension as a number; `a + b` is the sum of its parts, as exporters name the length of a whole context. */
function lengthOf(dimension: number | string, axis: number, given: Readonly<Record<string, number>>): number {
  if (typeof dimension === 'number' && dimension >= 0) return dimension;
  const name = typeof dimension === 'string' ? dimension : '';
  if (Object.hasOwn(given, name)) return given[name];
  const parts = name.split('+').map((part) => part.trim());
  if (parts.length > 1) return parts.reduce((sum, part) => sum + lengthOf(part, 1, given), 0);
  if (axis === 0 || /^batch/i.test(name)) return 1;
  return /^past/i.test(name) ? 0 : 16;
}

function randomTensor(input: ValueInfo, shape: Shape, random: () => number): Tensor {
  const filled = fillOf(input, shape);
  if (filled) return filled;
  const size = sizeOf(shape);
  const gaussian = createGaussian(random);
  const draw = isFloat(input.dtype) ? gaussian : () => Math.floor(random() * (input.dtype === 'uint8' ? 256 : 2));
  const values = Float32Array.from({ length: size }, draw);
  return convertTo(Tensor.float32(shape, values), input.dtype, `random: input ${input.name}`);
}
