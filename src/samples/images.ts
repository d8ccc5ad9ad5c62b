/** Samples from pictures: each is decoded and preprocessed when its turn comes. */
import { HalftoneError } from '../base/errors.ts';
import type { Feeds, ValueInfo } from '../runtime/runtime.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { concatenated, describeInput } from './arrays.ts';
import type { DecodeImage } from './decode.ts';
import { imageLayout, type Preprocessing, preprocess } from './preprocess.ts';
import type { Samples } from './sample.ts';

export interface PictureFile {
  readonly name: string;
  read(): Promise<Uint8Array>;
}

/**
 * One sample a picture, in the order given. A fixed batch above 1 is filled with consecutive pictures.
 * @param inputs the model's inputs: one, an image
 * @throws HalftoneError `unsupported` when the model takes more than an image, `missing-data` without enough pictures.
 */
export function imageSamples(
  files: readonly PictureFile[],
  inputs: readonly ValueInfo[],
  settings: Preprocessing,
  decode: DecodeImage,
  description: string,
): Samples {
  const [input] = inputs;
  if (inputs.length !== 1) {
    throw new HalftoneError(
      'unsupported',
      `${description}: expected a model with one image input, got ${inputs.map((i) => `${i.name} (${describeInput(i)})`).join(', ')}; give the samples as .npz`,
    );
  }
  const leading = imageLayout(input).batched ? input.shape[0] : 1;
  const group = typeof leading === 'number' && leading > 1 ? leading : 1;
  const count = Math.floor(files.length / group);
  if (count === 0) {
    throw new HalftoneError('missing-data', `${description}: expected at least ${group} pictures, got ${files.length}`);
  }
  const rest = files.length % group;
  return {
    description,
    count,
    ...(group === 1 ? { names: files.map((file) => file.name) } : {}),
    ignored: rest === 0 ? [] : [`the last ${rest} pictures: the model takes ${group} at a time`],
    async *[Symbol.asyncIterator](): AsyncGenerator<Feeds> {
      let pending: Tensor[] = [];
      for (const file of files.slice(0, count * group)) {
        const subject = `${description}/${file.name}`;
        pending.push(preprocess(await decode(await file.read(), subject), settings, input, subject));
        if (pending.length < group) continue;
        yield { [input.name]: concatenated(pending) };
        pending = [];
      }
    },
  };
}
