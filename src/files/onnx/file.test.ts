/** Models read by ranges are the models read whole; broken files are refused as they are when read whole. */
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { asset, haveAssets } from '../../../test/onnx/assets.ts';
import { bytesOfModel, model, node, tensor, value } from '../../../test/onnx/build.ts';
import { isHalftoneError } from '../../base/errors.ts';
import { createRandom } from '../../base/random.ts';
import type { ByteSource } from '../../tensor/source.ts';
import { bytesOf } from '../../tensor/tensor.ts';
import { readOnnxFile } from './file.ts';
import { readOnnx } from './read.ts';
import { readSkeleton } from './skeleton.ts';
import { writeOnnx } from './write.ts';

/** A file in memory that counts what is read of it. */
function fileOf(bytes: Uint8Array): ByteSource & { count: number } {
  return {
    byteLength: bytes.byteLength,
    count: 0,
    read(start = 0, end = bytes.byteLength) {
      this.count += end - start;
      return bytes.slice(start, end);
    },
  };
}

const count = 300_000;

function sample(): Uint8Array {
  const numbers = (name: string, factor: number) =>
    tensor({
      name,
      dims: [BigInt(count)],
      dataType: 1,
      rawData: bytesOf(Float32Array.from({ length: count }, (_, i) => i * factor)),
    });
  const proto = model({
    input: [value('x', [count])],
    output: [value('y', [count])],
    node: [
      node({ opType: 'Add', input: ['x', 'w'], output: ['s'] }),
      node({ opType: 'Mul', input: ['s', 'v'], output: ['y'] }),
    ],
    initializer: [numbers('w', 1), numbers('v', 2)],
  });
  return writeOnnx(readOnnx(bytesOfModel(proto)));
}

describe('reading by ranges', () => {
  it('leaves large tensors in the file until they are asked for', () => {
    const bytes = sample();
    const file = fileOf(bytes);
    const read = readOnnxFile(file);
    expect(file.count).toBeLessThan(500_000);
    const [w] = [...read.graph.initializers];
    expect(w.tensor?.source?.byteLength).toBe(1_200_000);
    expect(w.tensor?.floats()[299_999]).toBe(299_999);
    expect(Array.from(w.tensor?.bytesAt(4, 8) ?? [])).toEqual(Array.from(new Uint8Array(Float32Array.of(1).buffer)));
    expect(Buffer.compare(writeOnnx(read), bytes)).toBe(0);
  });

  it('refuses what is truncated or damaged, or reads the same as when it reads it whole', () => {
    const bytes = sample();
    const random = createRandom(11);
    for (let round = 0; round < 300; round++) {
      const broken = round % 3 === 0 ? bytes.slice(0, Math.floor(random() * bytes.byteLength)) : bytes.slice();
      // The message's own structure is at the front and around the tensors' beginnings.
      if (round % 3 > 0 && broken.byteLength > 0) {
        const at = random() < 0.5 ? Math.floor(random() * 200) : 1_200_000 + Math.floor(random() * 400);
        broken[at] ^= 1 << Math.floor(random() * 8);
      }
      const results = [() => readOnnx(broken), () => readOnnxFile(fileOf(broken))].map((read) => {
        try {
          return Buffer.from(writeOnnx(read())).toString('latin1');
        } catch (error) {
          if (!isHalftoneError(error) || error.code === 'internal') throw error;
          return 'refused';
        }
      });
      // Reading by ranges is stricter: it never looks beyond the message that a field is in.
      if (results[1] !== 'refused') expect(results[1] === results[0]).toBe(true);
    }
  });

  it('does not follow messages nested without end', () => {
    let nested = new Uint8Array(0);
    for (let depth = 0; depth < 120; depth++) {
      const parts = [depth % 3 === 0 ? 7 : 5];
      nested = Uint8Array.of(parts[0] * 8 + 2, (nested.length % 128) + 128, Math.floor(nested.length / 128), ...nested);
    }
    expect(() => readSkeleton(fileOf(nested), 0)).not.toThrow(RangeError);
  });
});

describe.skipIf(!haveAssets)('real models', () => {
  const names = haveAssets
    ? ['resnet20-cifar10', 'silero-vad', 'nsnet2-gru', 'mnist-cnn', 'shakespeare-gpt', 'mnist-external/mnist']
    : [];
  it.each(names)('%s is the same', (name) => {
    const path = asset(`models/${name}.onnx`);
    const bytes = readFileSync(path);
    const external = {
      read: (location: string, offset: number, length: number) =>
        new Uint8Array(readFileSync(`${dirname(path)}/${basename(location)}`)).slice(offset, offset + length),
    };
    const whole = writeOnnx(readOnnx(bytes, { external }));
    const file = fileOf(bytes);
    const ranged = readOnnxFile(file, { external, lazyBytes: 100 });
    expect(Buffer.compare(writeOnnx(ranged), whole)).toBe(0);
  });
});
