/** `quantize`, `inspect` and `compare` as a user runs them, on the digits example. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Interruption } from '../../src/cli/failure.ts';
import { run } from '../../src/cli/program.ts';
import { createTerminal } from '../../src/cli/terminal.ts';
import { readModel } from '../../src/files/onnx/node.ts';
import { inspect } from '../../src/pipeline/inspect.ts';
import { asset, haveAssets } from '../onnx/assets.ts';
import { digit, type Finished, halftone, scratch } from './run.ts';

const folder = scratch();
afterAll(() => folder.remove());
const model = digit('digits-cnn.onnx');
const calibration = digit('calibration.mjs');
const floatBytes = statSync(model).size;

function expectDone({ code, stderr }: Finished): void {
  expect(stderr).toBe('');
  expect(code).toBe(0);
}

describe('quantize', () => {
  it('alone makes the weights 8 bits wide and says so', async () => {
    const out = folder.path('alone.onnx');
    const result = await halftone(['quantize', model, '-o', out]);
    expectDone(result);
    expect(result.stdout).toMatch(/1 int8:channel:sym fold-at-load/);
    expect(result.stdout).toMatch(/1 left: only 1152 bytes/);
    expect(result.stdout).toMatch(/867 kB → 218 kB \(3\.97× smaller\)/);
    expect(statSync(out).size).toBeLessThan(floatBytes / 3.9);
    expect(readModel(out).graph.outputs.map(({ name }) => name)).toEqual(['logits']);
  });

  it('with --dry-run writes the plan to --report, and nothing else', async () => {
    const report = folder.path('plan.json');
    const before = folder.files();
    const result = await halftone(['quantize', model, '--dry-run', '-w', 'int4', '--report', report]);
    expectDone(result);
    expect(result.stdout).toContain(`Only this plan was written, to ${report}.`);
    expect(JSON.parse(readFileSync(report, 'utf8'))).toMatchObject({
      dryRun: true,
      model,
      plan: { weights: expect.any(Array) },
    });
    expect(folder.files()).toEqual([...before, 'plan.json'].sort());
  });

  it.skipIf(!haveAssets)('makes up samples of the lengths that it is told, and asks for them', async () => {
    const args = ['quantize', asset('models/silero-vad.onnx'), '-o', folder.path('vad.onnx'), '--calibrate', 'random'];
    const fails = await halftone([...args, '--samples', '1', '--dimensions', 'sequence=7']);
    expect(fails.code).toBe(1);
    expect(fails.stderr).toMatch(/made up: set lengths with --dimensions NAME=SIZE \(open: batch, sequence\)/);
    const done = await halftone([...args, '--samples', '1', '--dimensions', 'sequence=576', 'batch=1']);
    expectDone(done);
  });

  it('with samples makes a network of integers, and measures it on samples that were held out', async () => {
    const out = folder.path('static.onnx');
    const report = folder.path('static.json');
    const args = [
      'quantize',
      model,
      '-o',
      out,
      '--calibrate',
      calibration,
      '--samples',
      '64',
      '--report',
      report,
      '-v',
    ];
    const result = await halftone(args);
    expectDone(result);
    expect(result.stdout).toMatch(/2 int8:channel:sym qdq/);
    expect(result.stdout).toMatch(/Compared on 16 held-out samples/);
    expect(result.stdout).toMatch(/same best class +\d+\.\d %/);
    expect(result.stdout).toMatch(/latency +float .* ms, quantized .* ms: .*× (faster|slower)/);
    for (const name of ['conv1.weight', 'conv1.bias', 'fc1.weight', 'fc1.bias']) expect(result.stdout).toContain(name);
    const operators = inspect(readModel(out)).operators.map(([op]) => op);
    expect(operators).toContain('QuantizeLinear');

    const document = JSON.parse(readFileSync(report, 'utf8'));
    expect(document).toMatchObject({
      version: 1,
      model,
      output: { paths: [out], bytes: statSync(out).size },
      calibration: { samples: 64, synthetic: false },
      stages: [{ stage: 'nearest' }, { stage: 'bias', changed: 2 }],
      comparison: { samples: 16, synthetic: false, agreement: { rows: 16 }, latency: { runs: 20, batch: 1 } },
    });
    expect(document.plan.weights.map((weight: { tensor: string }) => weight.tensor).sort()).toEqual(
      inspect(readModel(model))
        .weights.map(({ tensor }) => tensor)
        .sort(),
    );
    expect(document.comparison.outputs[0].sqnr).toBeGreaterThan(30);
    expect(document.plan.activations.every((activation: { scale: number }) => activation.scale > 0)).toBe(true);
    expect(folder.files().filter((name) => name.includes('partial'))).toEqual([]);
  });

  it('--json prints one document, in which no number is lost', async () => {
    const out = folder.path('json.onnx');
    // float weights: nothing changes, so the SQNR is infinite.
    const result = await halftone([
      'quantize',
      model,
      '-o',
      out,
      '-w',
      'float',
      '--calibrate',
      calibration,
      '--samples',
      '8',
      '-a',
      'none',
      '--json',
    ]);
    expectDone(result);
    const document = JSON.parse(result.stdout);
    expect(document.comparison.outputs[0].sqnr).toBe('Infinity');
    expect(document.weights).toEqual([]);
  });

  it('--dry-run prints the plan and writes nothing', async () => {
    const before = folder.files();
    const args = ['quantize', model, '-o', folder.path('dry.onnx'), '-w', 'int3:channel', '--dry-run'];
    const [text, json] = await Promise.all([halftone(args), halftone([...args, '--json'])]);
    expectDone(text);
    expect(text.stdout).toMatch(/fc1\.weight +matrix +int3:channel:asym +fold-at-load +865,280 +\d+,\d+/);
    expect(text.stdout).toMatch(/Weights 867 kB → about .* kB\. Nothing was written\./);
    expectDone(json);
    const { dryRun, plan } = JSON.parse(json.stdout);
    expect(dryRun).toBe(true);
    expect(plan.predictedBytes).toBeLessThan(plan.floatBytes / 9);
    expect(folder.files()).toEqual(before);
  });

  it('predicts the size that comes out', async () => {
    const out = folder.path('size.onnx');
    const [planned, made] = await Promise.all([
      halftone(['quantize', model, '--dry-run', '--json', '-w', 'int5:g16']),
      halftone(['quantize', model, '-o', out, '-w', 'int5:g16']),
    ]);
    expectDone(made);
    const { plan } = JSON.parse(planned.stdout);
    expect(statSync(out).size - plan.predictedBytes).toBeGreaterThan(0);
    expect(statSync(out).size - plan.predictedBytes).toBeLessThan(5000);
  });

  it('keeps a gate: below it nothing is written, and what was there stays', async () => {
    const out = folder.path('gate.onnx');
    writeFileSync(out, 'before');
    const report = folder.path('gate.json');
    const args = [
      'quantize',
      model,
      '-o',
      out,
      '--report',
      report,
      '-w',
      'int2:tensor',
      '--weight-range',
      'min-max',
      '--corrections',
      'none',
      '--calibrate',
      calibration,
    ];
    const failed = await halftone([...args, '--min-sqnr', '20', '--json']);
    expect(failed.code).toBe(3);
    expect(failed.stderr).toMatch(
      /^halftone: accuracy: expected outputs of at least 20 dB, got: output "logits" has -?\d/,
    );
    expect(failed.stderr).toMatch(/nothing was written/);
    const document = JSON.parse(failed.stdout);
    expect(document.output).toBeNull();
    expect(document.gate).toMatchObject({ minSqnr: 20, passed: false });
    expect(readFileSync(out, 'utf8')).toBe('before');
    expect(folder.files()).not.toContain('gate.json');

    const passed = await halftone([
      'quantize',
      model,
      '-o',
      out,
      '--calibrate',
      calibration,
      '--samples',
      '32',
      '--min-sqnr',
      '20',
    ]);
    expectDone(passed);
    expect(inspect(readModel(out)).nodes).toBeGreaterThan(4);
  });

  it('takes a recipe, and options over it', async () => {
    const recipe = folder.path('recipe.json');
    writeFileSync(
      recipe,
      JSON.stringify({
        weights: 'int4:channel',
        uniform: true,
        rules: [{ match: { op: 'Gemm' }, use: { weights: 'int6:channel' } }],
      }),
    );
    const plan = async (more: readonly string[]) =>
      JSON.parse((await halftone(['quantize', model, '--dry-run', '--json', '--recipe', recipe, ...more])).stdout).plan;
    const [base, over] = await Promise.all([
      plan([]),
      plan(['-w', 'int8', '--exclude', 'fc1.*', '--accuracy-level', '0']),
    ]);
    const fc1 = (of: typeof base) => of.weights.find((weight: { tensor: string }) => weight.tensor === 'fc1.weight');
    expect(fc1(base).quantize.scheme).toBe('int6:channel:asym');
    expect(base.recipe).toMatchObject({
      weights: 'int4:channel:asym',
      uniform: true,
      accuracyLevel: 4,
      preset: 'fast',
      corrections: ['bias'],
    });
    expect(fc1(over).quantize).toBeUndefined();
    expect(fc1(over).because).toBe('excluded');
    expect(over.recipe).toMatchObject({ weights: 'int8:channel:sym', uniform: true, accuracyLevel: 0 });
  });

  it('passes every option on to the recipe', async () => {
    const args = [
      '-a',
      'int8',
      '--range',
      'percentile',
      '--percentile',
      '99.9',
      '--weight-range',
      'mse',
      '--lowering',
      'qoperator',
      '--reduce-range',
      '--op-types',
      'Conv,Gemm',
      '--corrections',
      'none',
    ];
    const { stdout } = await halftone(['quantize', model, '--dry-run', '--json', '--calibrate', 'random', ...args]);
    expect(JSON.parse(stdout).plan.recipe).toMatchObject({
      activations: 'int8',
      range: 'percentile',
      percentile: 99.9,
      weightRange: 'mse',
      lowering: 'qoperator',
      reduceRange: true,
      opTypes: ['Conv', 'Gemm'],
      corrections: [],
    });
  });

  it('names options that change nothing here', async () => {
    const args = [
      '--range',
      'entropy',
      '--percentile',
      '99',
      '--reduce-range',
      '--exclude',
      'nothing*',
      '--op-types',
      'LSTM',
    ];
    const { stdout, code } = await halftone(['quantize', model, '--dry-run', ...args]);
    expect(code).toBe(0);
    for (const option of [
      '--range has',
      '--percentile has',
      '--reduce-range has',
      '--exclude "nothing*" matches no',
      '--op-types LSTM: the model has no',
    ])
      expect(stdout).toContain(option);
  });

  it('writes tensors to a file of their own on request', async () => {
    const out = folder.path('external.onnx');
    expectDone(await halftone(['quantize', model, '-o', out, '--external-data']));
    expect(statSync(`${out}_data`).size).toBeGreaterThan(200_000);
    expect(statSync(out).size).toBeLessThan(20_000);
    expect(inspect(readModel(out)).weightBytes).toBeGreaterThan(200_000);
  });

  it('says that made-up samples tell nothing about accuracy', async () => {
    const result = await halftone(['quantize', model, '-o', folder.path('random.onnx'), '--calibrate', 'random']);
    expectDone(result);
    expect(result.stdout).toMatch(/made up: accuracy is unknown/);
    expect(result.stdout).toMatch(/how accurate the model is on real data is unknown/);
  });

  it('tells the accuracy of both models where labels are given, of the held-out samples alone', async () => {
    const data = ['--calibrate', digit('test.mjs'), '--labels', digit('digits.npz'), '--samples', '200'];
    const result = await halftone(['quantize', model, '-o', folder.path('labels.onnx'), ...data, '--json']);
    expectDone(result);
    const { agreement } = JSON.parse(result.stdout).comparison;
    expect(agreement.rows).toBe(50);
    // Labels of other samples than these would agree on about a tenth.
    expect(agreement.floatAccuracy).toBeGreaterThan(0.8);
    expect(agreement.quantizedAccuracy).toBeGreaterThan(0.8);
  });

  it('stops when it is asked to, before anything is written', async () => {
    const controller = new AbortController();
    let stderr = '';
    const output = { write: () => true };
    const errors = { write: (text: string) => (stderr += text) };
    const terminal = createTerminal(output, errors, {}, controller.signal);
    controller.abort(new Interruption('SIGINT'));
    const args = ['quantize', model, '-o', folder.path('stopped.onnx'), '--calibrate', calibration];
    expect(await run(args, terminal)).toBe(130);
    expect(stderr).toBe('halftone: interrupted\n');
    expect(folder.files()).not.toContain('stopped.onnx');
  });

  it('refuses a quantized model unless told otherwise', async () => {
    const first = folder.path('once.onnx');
    expectDone(await halftone(['quantize', model, '-o', first, '--calibrate', 'random', '--no-compare']));
    const again = await halftone(['quantize', first, '-o', folder.path('twice.onnx')]);
    expect(again.code).toBe(1);
    expect(again.stderr).toMatch(/already quantized.*--allow-quantized/);
    expect((await halftone(['quantize', first, '--dry-run', '--allow-quantized'])).code).toBe(0);
  });
});

describe('compare', () => {
  const small = folder.path('collapsed.onnx');
  beforeAll(async () => {
    const args = ['-w', 'int2:tensor:sym', '--weight-range', 'min-max', '--uniform'];
    expectDone(await halftone(['quantize', model, '-o', small, ...args]));
  });

  it('measures agreement and accuracy, and names the layer where a collapse begins', async () => {
    const report = folder.path('compare.json');
    const result = await halftone([
      'compare',
      model,
      small,
      '--data',
      digit('test.mjs'),
      '--labels',
      digit('digits.npz'),
      '--report',
      report,
    ]);
    expectDone(result);
    expect(result.stdout).toMatch(/Compared on 1,000 samples/);
    expect(result.stdout).toMatch(/accuracy +float 90\.7 %, quantized \d\d\.\d % \(−\d+\.\d points\)/);
    expect(result.stdout).toMatch(/has collapsed: .* it begins at Gemm "logits"/);
    const { comparison, float, quantized } = JSON.parse(readFileSync(report, 'utf8'));
    expect(comparison.collapsed.layer).toBe('logits');
    expect(comparison.agreement.floatAccuracy).toBe(0.907);
    expect(float.bytes).toBeGreaterThan(quantized.bytes * 10);
  });

  it('fails by the gate with its own exit code', async () => {
    const result = await halftone([
      'compare',
      model,
      small,
      '--data',
      calibration,
      '--samples',
      '16',
      '--min-sqnr',
      '10',
      '--json',
    ]);
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/at least 10 dB/);
    const document = JSON.parse(result.stdout);
    expect(document.gate.passed).toBe(false);
    expect(document.comparison.samples).toBe(16);
    const same = await halftone(['compare', model, model, '--data', calibration, '--samples', '4', '--min-sqnr', '10']);
    expectDone(same);
    expect(same.stdout).toMatch(/logits +exact/);
  });
});

describe('inspect', () => {
  it('shows operators, parameters, bytes and ranges', async () => {
    const [text, json] = await Promise.all([halftone(['inspect', model]), halftone(['inspect', model, '--json'])]);
    expectDone(text);
    expect(text.stdout).toMatch(/Conv ×1 +Relu ×1 +Flatten ×1 +Gemm ×1/);
    expect(text.stdout).toMatch(/parameters +216,650/);
    expect(text.stdout).toMatch(
      /fc1\.weight +\[10,21632\] +float32 +matrix +Gemm "\/fc1\/Gemm" +865,280 +99\.8 % +-0\.3006 +0\.2143/,
    );
    expectDone(json);
    expect(JSON.parse(json.stdout)).toMatchObject({ model, opset: 17, parameters: 216_650, nodes: 4, quantized: [] });
  });
});
