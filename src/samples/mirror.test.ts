/** Mirror images: which pixels change places, in every layout, and which inputs have none. */
import { describe, expect, test } from 'vitest';
import { samplesOf } from '../../test/support/static.ts';
import type { ValueInfo } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { withMirrorImages } from './mirror.ts';

const input = (shape: ValueInfo['shape']): ValueInfo => ({ name: 'x', dtype: 'float32', shape });

async function turned(image: Tensor, shape: ValueInfo['shape']): Promise<Tensor[]> {
  const found: Tensor[] = [];
  for await (const { x } of withMirrorImages(samplesOf([{ x: image }]), [input(shape)])) found.push(x);
  return found;
}

describe('a mirror image', () => {
  test('follows the picture, with channels first', async () => {
    const numbers = Float32Array.from({ length: 12 }, (_, index) => index);
    const [both, ...rest] = await turned(Tensor.float32([1, 3, 2, 2], numbers), ['N', 3, 2, 2]);
    expect(rest).toEqual([]);
    expect(both.shape).toEqual([2, 3, 2, 2]);
    expect([...both.floats()]).toEqual([...numbers, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]);
  });

  test('keeps the colours of a pixel together, with channels last', async () => {
    const numbers = Float32Array.from({ length: 12 }, (_, index) => index);
    const [both] = await turned(Tensor.float32([1, 2, 2, 3], numbers), ['N', 2, 2, 3]);
    expect([...both.floats().subarray(12)]).toEqual([3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
  });

  test('of bytes, and of every picture of a batch', async () => {
    const bytes = new Tensor('uint8', [2, 1, 2, 2], Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const [both] = await turned(bytes, ['N', 1, 2, 2]);
    expect([...both.bytes]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 4, 3, 6, 5, 8, 7]);
  });

  test('of grey values, with their one channel last', async () => {
    const [both] = await turned(Tensor.float32([1, 2, 2, 1], Float32Array.of(1, 2, 3, 4)), ['N', 2, 2, 1]);
    expect([...both.floats()]).toEqual([1, 2, 3, 4, 2, 1, 4, 3]);
  });
});

test.each([
  [[input([1, 3, 4, 4])], 'x [1,3,4,4], one image at a time'],
  [[input(['N', 3, 4, 4]), input(['N', 3, 4, 4])], '2 inputs'],
  [[input(['N', 128])], 'float32[N,128]'],
])('other inputs are refused', (inputs, got) => {
  expect(() => withMirrorImages(samplesOf([]), inputs)).toThrow(
    `expected a model with one input, a batch of images, got ${got}`,
  );
});
