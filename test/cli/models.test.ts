/** The command line on real models: pictures with labels, token ids, files that must be refused. Needs the shared assets. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { asset, haveAssets } from '../onnx/assets.ts';
import { halftone, scratch } from './run.ts';

const folder = scratch();
afterAll(() => folder.remove());

describe.skipIf(!haveAssets)('on real models', () => {
  it('a folder of pictures calibrates a network of convolutions; labels are matched by name', async () => {
    const pictures = asset('data/imagenet-sample');
    const preprocess = folder.path('preprocessor_config.json');
    const scaled = { do_rescale: true, rescale_factor: 1 / 255, do_normalize: true };
    const mean = { image_mean: [0.485, 0.456, 0.406], image_std: [0.229, 0.224, 0.225] };
    const crop = { do_resize: false, do_center_crop: true, crop_size: { height: 224, width: 224 } };
    writeFileSync(preprocess, JSON.stringify({ ...crop, ...scaled, ...mean }));
    // The file's name is the class.
    const labels = folder.path('labels.json');
    const byName = readdirSync(pictures).map((name) => [name, Number(name.slice(0, 4))]);
    writeFileSync(labels, JSON.stringify(Object.fromEntries(byName)));
    const out = folder.path('squeezenet.onnx');
    const data = [
      '--calibrate',
      `${pictures}/*0.jpg`,
      '--preprocess',
      preprocess,
      '--labels',
      labels,
      '--samples',
      '8',
    ];
    const result = await halftone([
      ...['quantize', asset('models/squeezenet1.1.onnx'), '-o', out, ...data],
      ...['--min-sqnr', '20', '--corrections', 'none', '--json'],
    ]);
    expect(result.stderr).toBe('');
    expect(result.code).toBe(0);
    const { comparison, plan, gate } = JSON.parse(result.stdout);
    expect(gate.passed).toBe(true);
    expect(comparison.agreement.rows).toBe(2);
    expect(comparison.agreement.floatAccuracy).toBeGreaterThan(0);
    expect(plan.weights.filter((weight: { quantize?: unknown }) => weight.quantize).length).toBe(26);
    expect(statSync(out).size).toBeLessThan(1_340_000);
  });

  it('token ids compare a language model', async () => {
    const { chars } = JSON.parse(readFileSync(asset('models/shakespeare-gpt.vocab.json'), 'utf8')) as {
      chars: string[];
    };
    const text = readFileSync(asset('data/text/tinyshakespeare.txt'), 'utf8').slice(-1000);
    const lines = [0, 64, 128].map((start) => [...text.slice(start, start + 64)].map((char) => chars.indexOf(char)));
    const data = folder.path('tokens.jsonl');
    writeFileSync(data, lines.map((line) => JSON.stringify(line)).join('\n'));
    const model = asset('models/shakespeare-gpt.onnx');
    const out = folder.path('gpt.onnx');
    const made = await halftone(['quantize', model, '-o', out, '-w', 'int4:g32', '--weight-range', 'min-max']);
    expect(made.stdout).toMatch(/16 int4:g32:asym matmul-nbits, 2 int8:channel:sym fold-at-load/);
    expect(made.stdout).toMatch(/accuracy level 4/);
    const { stdout, code } = await halftone(['compare', model, out, '--data', data, '--json']);
    expect(code).toBe(0);
    const { agreement, outputs } = JSON.parse(stdout).comparison;
    expect(agreement.rows).toBe(3 * 64);
    expect(agreement.top1).toBeGreaterThan(0.85);
    expect(outputs[0].sqnr).toBeGreaterThan(15);
  });

  it.each([
    ['yolov8n-int8.onnx', /already quantized \(64 ConvInteger/],
    ['ir1-no-opset.onnx', /IR version 1 without/],
  ])('%s is refused and nothing is written', async (name, message) => {
    const out = folder.path('refused.onnx');
    const { code, stderr } = await halftone(['quantize', asset(`models/${name}`), '-o', out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(folder.files()).not.toContain('refused.onnx');
  });

  it('inspect recognises a quantized model', async () => {
    const { stdout } = await halftone(['inspect', asset('models/yolov8n-int8.onnx')]);
    expect(stdout).toMatch(/quantized +already: 64 ConvInteger, 59 DynamicQuantizeLinear/);
  });
});
