/**
 * `halftone demo`: the article's program. A PyTorch checkpoint becomes a network; its weights are quantized, an image is
 * classified, the quantization is corrected, the image is classified again. Then the same for other widths, measured.
 */
import { writeOnnx } from '../../files/onnx/write.ts';
import type { Model } from '../../graph/model.ts';
import { quantizeModel } from '../../pipeline/quantize.ts';
import type { RecipeInput } from '../../pipeline/recipe.ts';
import type { Runtime, Session } from '../../runtime/runtime.ts';
import { type Digits, readCheckpoint, readDigits, samplesOf } from '../demo/digits.ts';
import { accuracyOf, classify, latencies, withSession } from '../demo/measure.ts';
import { buildNetwork, side } from '../demo/network.ts';
import { drawPicture } from '../demo/picture.ts';
import { bytes, count, milliseconds, percent, ratio } from '../numbers.ts';
import { runtimeFor } from '../open.ts';
import { type Column, table } from '../table.ts';
import { printNotes, type Terminal } from '../terminal.ts';

/** A four that the float network recognises, and two bits do not unless they are corrected. */
const shownImage = 148;
const shownBits = 2;
const widths = [8, 4, 3, 2, 1];
/** Timed runs of each model. */
const runs = 100;

/** One scale and offset for a whole tensor, any offset: as the article's formula has it. */
const scheme = (bits: number) => `uint${bits}:tensor:asym`;

/** The article's mapping: from minimum to maximum, rounded to nearest, and nothing else. */
const plain: RecipeInput = { activations: 'none', uniform: true, weightRange: 'min-max', corrections: [] };
/** The same format and granularity; the grid is searched for, and layers get back what rounding took from their output. */
const corrected: RecipeInput = { activations: 'none', uniform: true, weightRange: 'search', corrections: ['bias'] };

/** Runs the demo. @throws HalftoneError when its files or ONNX Runtime are missing. */
export async function demoCommand(terminal: Terminal): Promise<void> {
  const { print, style, progress } = terminal;
  const checkpoint = readCheckpoint();
  const digits = readDigits();
  const float = buildNetwork(checkpoint);
  const runtime = runtimeFor(undefined, terminal);

  print(style.bold('digits-cnn.pth, a PyTorch checkpoint, read without Python'));
  for (const [name, tensor] of checkpoint.entries) {
    print(`  ${name.padEnd(14)}${tensor.dtype} [${tensor.shape.join(',')}]`);
  }
  print(`  as a network: Conv 1→32 3×3, Relu, Flatten, Gemm 21632→10; ${bytes(writeOnnx(float).byteLength)} in float`);

  const label = digits.labels[shownImage];
  print('', style.bold(`Test image ${shownImage}, a ${label}`));
  print(...drawPicture(digits.test.pixels(shownImage), side, side).map((line) => `  ${line}`));
  const see = (model: Model) =>
    withSession(model, runtime, async (session) => (await classify(session, digits, shownImage, 1))[0]);
  print(`Float digit: ${await see(float)}`);

  print('', style.bold(`Weights quantized to ${shownBits} bits, from the minimum to the maximum of each tensor`));
  progress.say('Quantizing …');
  const before = await quantizeTo(shownBits, plain, float, digits, runtime, terminal);
  print(`Predicted digit: ${await see(before)}`);

  print('', style.bold(`Corrected: range of least squared error, and outputs set right by calibration images`));
  progress.say('Correcting …');
  const after = await quantizeTo(shownBits, corrected, float, digits, runtime, terminal);
  print(`Corrected predicted digit: ${await see(after)}`);

  const rows = await measureAll(float, digits, runtime, terminal);
  print('', style.bold(`All ${count(digits.test.count)} test images, weights of every width`));
  print(...table(rows, columns(), { width: terminal.width, indent: 2, title: style.dim }));
  print('');
  printNotes(terminal, [
    'One scale and offset per tensor in all rows, so that before and after differ in the correction alone. With 1 bit both start from the two best levels.',
    `Before: minimum to maximum, rounded to nearest. After: range of least squared error, and bias correction by the ${digits.calibration.count} calibration images, some of them held out to judge it.`,
    `The image above is one on which correction shows; the table counts all ${count(digits.test.count)}. conv1.weight (1,152 bytes) stays float: packing would not make it smaller.`,
    `Latency is the median of ${runs} runs of one image (${runtime.id} ${runtime.version}). The packed weights unfold when the file is loaded, so speed is that of float and the gain is the size.`,
  ]);
}

async function quantizeTo(
  bits: number,
  recipe: RecipeInput,
  float: Model,
  digits: Digits,
  runtime: Runtime,
  terminal: Terminal,
): Promise<Model> {
  const samples = recipe.corrections?.length ? { calibration: samplesOf(digits.calibration, 'digits.npz') } : {};
  const { model } = await quantizeModel(
    float,
    { ...recipe, ...samples, weights: scheme(bits), compare: false, signal: terminal.signal },
    runtime,
  );
  return model;
}

interface Row {
  readonly name: string;
  readonly bytes: number;
  readonly floatBytes: number;
  readonly before: Measured;
  /** Missing for the float network. */
  readonly after?: Measured;
}

interface Measured {
  readonly accuracy: number;
  readonly latency: number;
}

/** Quantizes to every width, then times all networks in one interleaved run. */
async function measureAll(float: Model, digits: Digits, runtime: Runtime, terminal: Terminal): Promise<Row[]> {
  const { clock, signal, progress } = terminal;
  const models = [float];
  for (const bits of widths) {
    progress.say(`Quantizing to ${bits} ${bits === 1 ? 'bit' : 'bits'} …`);
    models.push(await quantizeTo(bits, plain, float, digits, runtime, terminal));
    models.push(await quantizeTo(bits, corrected, float, digits, runtime, terminal));
  }
  progress.say('Measuring …');
  const sessions: Session[] = [];
  try {
    for (const model of models) sessions.push(await runtime.open(writeOnnx(model)));
    const measured: Measured[] = [];
    const times = await latencies(sessions, digits, runs, clock, signal);
    for (const [index, session] of sessions.entries()) {
      measured.push({ accuracy: await accuracyOf(session, digits, signal), latency: times[index] });
    }
    const sizes = models.map((model) => writeOnnx(model).byteLength);
    const [floatBytes] = sizes;
    const rows = widths.map(
      (bits, index): Row => ({
        name: `${bits} ${bits === 1 ? 'bit' : 'bits'}`,
        bytes: sizes[2 * index + 2],
        floatBytes,
        before: measured[2 * index + 1],
        after: measured[2 * index + 2],
      }),
    );
    return [{ name: 'float', bytes: floatBytes, floatBytes, before: measured[0] }, ...rows];
  } finally {
    for (const session of sessions) await session.close();
  }
}

function columns(): Column<Row>[] {
  return [
    { title: 'weights', value: ({ name }) => name },
    { title: 'bytes', value: (row) => count(row.bytes), align: 'right' },
    { title: 'smaller', value: (row) => (row.after ? ratio(row.floatBytes, row.bytes) : ''), align: 'right' },
    { title: 'accuracy before', value: ({ before }) => percent(before.accuracy), align: 'right' },
    { title: 'after', value: ({ after }) => (after ? percent(after.accuracy) : ''), align: 'right' },
    { title: 'latency before', value: ({ before }) => milliseconds(before.latency), align: 'right' },
    { title: 'after', value: ({ after }) => (after ? milliseconds(after.latency) : ''), align: 'right' },
  ];
}
