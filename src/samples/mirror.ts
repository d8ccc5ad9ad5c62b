/** Mirror images beside pictures: twice the samples for things that look as likely either way round. */
import { HalftoneError, isHalftoneError } from '../base/errors.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { concatenated, describeInput } from './arrays.ts';
import { type ImageLayout, imageLayout } from './preprocess.ts';
import type { Samples } from './sample.ts';

/**
 * The same samples, each followed along axis 0 by its mirror image: left and right are exchanged.
 * @param inputs the model's inputs: one, an image with a free batch axis
 * @throws HalftoneError `usage` for other inputs
 */
export function withMirrorImages(samples: Samples, inputs: readonly ValueInfo[]): Samples {
  const [input] = inputs;
  const refuse = (got: string): never => {
    throw new HalftoneError(
      'usage',
      `mirror: expected a model with one input, a batch of images, got ${got}; leave it out`,
    );
  };
  if (inputs.length !== 1) return refuse(`${inputs.length} inputs`);
  const { batched, channels, channelsLast } = layoutOf(input) ?? refuse(describeInput(input));
  if (!batched || typeof input.shape[0] === 'number')
    return refuse(`${input.name} [${input.shape.join()}], one image at a time`);
  const { description, synthetic, ignored } = samples;
  return {
    description,
    ...(samples.count === undefined ? {} : { count: samples.count }),
    ...(synthetic === undefined ? {} : { synthetic }),
    ...(ignored === undefined ? {} : { ignored }),
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      for await (const feeds of samples) {
        const image = feeds[input.name];
        yield { ...feeds, [input.name]: concatenated([image, mirrored(image, channelsLast ? channels : undefined)]) };
      }
    },
  };
}

function layoutOf(input: ValueInfo): ImageLayout | undefined {
  try {
    return imageLayout(input);
  } catch (error) {
    if (isHalftoneError(error)) return undefined;
    throw error;
  }
}

/** @param channels how many lie beside each other, where the last axis is theirs */
function mirrored({ dtype, shape, bytes, size }: Tensor, channels: number | undefined): Tensor {
  // Numbers are moved as what they take, whatever they are.
  const Numbers = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[bytes.length / size];
  if (!Numbers) throw new HalftoneError('unsupported', `mirror: expected numbers of whole bytes, got ${dtype}`);
  const from = new Numbers(bytes.slice().buffer);
  const to = new Numbers(from.length);
  const pixel = channels ?? 1;
  const row = pixel * (shape.at(channels === undefined ? -1 : -2) as number);
  for (let start = 0; start < from.length; start += row) {
    for (let at = 0; at < row; at += pixel) {
      const opposite = start + row - at - pixel;
      for (let i = 0; i < pixel; i++) to[opposite + i] = from[start + at + i];
    }
  }
  return new Tensor(dtype, shape, new Uint8Array(to.buffer));
}
