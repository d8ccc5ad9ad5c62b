/** The digits of `examples/digits`: images to calibrate with, images to test on, and what they show. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { HalftoneError, messageOf } from '../../base/errors.ts';
import { readNpz } from '../../files/npz.ts';
import { readTorch, type TorchFile } from '../../files/torch/torch.ts';
import type { Samples } from '../../samples/sample.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { imageName, side } from './network.ts';

const size = side * side;

/** Grey images of 28×28 pixels. */
export interface Images {
  readonly count: number;
  /** The pixels of one image, 0 … 255. */
  pixels(index: number): Uint8Array;
  /** Images `start` … `start + length` as the network takes them: (x / 255 − 0.5) / 0.5. */
  batch(start: number, length: number): Tensor;
}

export interface Digits {
  readonly calibration: Images;
  readonly test: Images;
  readonly labels: readonly number[];
}

/** The path of a file of the example, wherever the package is installed. */
export function examplePath(name: string): string {
  return fileURLToPath(new URL(`../../../examples/digits/${name}`, import.meta.url));
}

function readExample(name: string): Uint8Array {
  const path = examplePath(name);
  try {
    return new Uint8Array(readFileSync(path));
  } catch (error) {
    throw new HalftoneError(
      'missing-data',
      `${path}: expected the demo's file, got none (${messageOf(error)}); install halftone again`,
      {
        cause: error,
      },
    );
  }
}

/** The PyTorch checkpoint of the article's network. */
export function readCheckpoint(): TorchFile {
  return readTorch(readExample('digits-cnn.pth'), 'digits-cnn.pth');
}

/** The images and labels. */
export function readDigits(): Digits {
  const arrays = readNpz(readExample('digits.npz'), 'digits.npz');
  const array = (name: string): Tensor => {
    const found = arrays.get(name);
    if (found) return found.read();
    throw new HalftoneError(
      'invalid-file',
      `digits.npz: expected an array ${name}, got ${[...arrays.keys()].join(', ')}`,
    );
  };
  return {
    calibration: imagesOf(array('calibration')),
    test: imagesOf(array('test_images')),
    labels: array('test_labels').integers(),
  };
}

function imagesOf(tensor: Tensor): Images {
  const { bytes } = tensor;
  return {
    count: tensor.shape[0],
    pixels: (index) => bytes.subarray(index * size, (index + 1) * size),
    batch(start, length) {
      const values = Float32Array.from(
        bytes.subarray(start * size, (start + length) * size),
        (x) => (x / 255 - 0.5) / 0.5,
      );
      return Tensor.float32([values.length / size, 1, side, side], values);
    },
  };
}

/** The images one by one, as samples to calibrate with. */
export function samplesOf(images: Images, description: string): Samples {
  return {
    description,
    count: images.count,
    async *[Symbol.asyncIterator]() {
      for (let index = 0; index < images.count; index++) yield { [imageName]: images.batch(index, 1) };
    },
  };
}
