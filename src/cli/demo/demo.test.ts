import { describe, expect, it } from 'vitest';
import { isHalftoneError } from '../../base/errors.ts';
import { readModel } from '../../files/onnx/node.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { examplePath, readCheckpoint, readDigits } from './digits.ts';
import { buildNetwork } from './network.ts';
import { drawPicture } from './picture.ts';

describe('the network around the checkpoint', () => {
  it('is that of the ONNX export', () => {
    const built = buildNetwork(readCheckpoint());
    const exported = readModel(examplePath('digits-cnn.onnx'));
    expect(built.graph.nodes.map(({ op }) => op)).toEqual(exported.graph.nodes.map(({ op }) => op));
    for (const { name, tensor } of exported.graph.initializers) {
      const own = [...built.graph.initializers].find((value) => value.name === name);
      expect(own?.tensor?.equals(tensor!)).toBe(true);
    }
    expect([...exported.graph.initializers].length).toBe(4);
  });

  it('is refused where the state dict does not fit', () => {
    const checkpoint = readCheckpoint();
    const entries = new Map(checkpoint.entries);
    entries.set('fc1.weight', Tensor.float32([2, 2], [1, 2, 3, 4]));
    expect(() => buildNetwork({ ...checkpoint, entries })).toThrowError(
      expect.toSatisfy((error: unknown) => isHalftoneError(error, 'invalid-file')),
    );
    entries.delete('fc1.weight');
    expect(() => buildNetwork({ ...checkpoint, entries })).toThrowError(/expected fc1\.weight/);
  });
});

describe('the images', () => {
  it('are scaled to -1 … 1', () => {
    const { test, labels, calibration } = readDigits();
    expect([test.count, labels.length, calibration.count]).toEqual([1000, 1000, 128]);
    const pixels = test.pixels(3);
    const values = test.batch(3, 1).floats();
    expect(values.length).toBe(784);
    for (const [index, pixel] of pixels.entries()) expect(values[index]).toBeCloseTo((pixel / 255 - 0.5) / 0.5, 6);
  });

  it('are drawn darker where there is more ink, two rows of pixels a line', () => {
    const pixels = [0, 60, 130, 255, 0, 60, 130, 255, 255, 0, 0, 0];
    expect(drawPicture(pixels, 4, 3)).toEqual([' ░▒█', '▒   ']);
  });
});
