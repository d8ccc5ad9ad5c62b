/** Functions of the library that Node has its own form of. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Builder } from '../test/support/static.ts';
import { openRuntime, quantize, quantizeModel, readModel, Tensor, writeModel, writeOnnx } from './node.ts';

it('quantizeModel takes a model whose tensors lie in its file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-node-'));
  try {
    const path = join(folder, 'model.onnx');
    const build = new Builder();
    const weight = Tensor.float32(
      [1024, 512],
      Float32Array.from({ length: 2 ** 19 }, (_, index) => Math.sin(index)),
    );
    const product = build.add('MatMul', [build.input('x', [1, 1024]), build.graph.addInitializer('w', weight)]);
    writeModel(build.output(product).model, path, { external: true });
    const model = readModel(path);
    expect([...model.graph.initializers].some(({ tensor }) => tensor?.source)).toBe(true);
    const options = { weights: 'int4' } as const;
    const result = await quantizeModel(model, options, await openRuntime());
    const { model: expected } = await quantize(path, options);
    expect(Buffer.compare(writeOnnx(result.model), writeOnnx(expected))).toBe(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
