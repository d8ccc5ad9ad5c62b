/** The rows of the accuracy table: which model, which recipe, what must be reached, and what the peer reaches. */
import type { QuantizeOptions, Session } from '../src/index.ts';
import { noisySpectra, speechWindows, spokenDigits } from './audio.ts';
import { cifar10, type Data, imagenet, mnist, shakespeare } from './data.ts';

/** Limits; whatever is not given is not asked for. */
export interface Goals {
  /** Points of accuracy lost against the float run. */
  readonly drop?: number;
  /** Nats per character gained, relative, in per cent. */
  readonly nats?: number;
  /** Decibels. */
  readonly sqnr?: number;
  readonly bytes?: number;
  readonly speedup?: number;
  /** True where the result is useless and `compare` must say so. */
  readonly collapsed?: true;
}

export interface Row {
  readonly recipe: string;
  readonly options: Omit<QuantizeOptions, 'calibration'>;
  readonly goals: Goals;
  /** Figures of onnxruntime 1.30's Python tool, from issue 2. */
  readonly peer: string;
}

export interface BenchModel {
  /** The file's name without `.onnx`. */
  readonly name: string;
  /** Opens the data; `float` is the float model. */
  open(float: Session, quick: boolean): Data | Promise<Data>;
  readonly rows: readonly Row[];
}

const static8 = { activations: 'uint8' } as const;
const int8 = { weights: 'int8', activations: 'none' } as const;
const int4 = { weights: 'int4:g32:asym', activations: 'none' } as const;

const recurrentRows: readonly Row[] = [
  { recipe: 'weights int8', options: int8, goals: { sqnr: 30 }, peer: '–' },
  { recipe: 'weights int4 g32', options: int4, goals: { sqnr: 15 }, peer: '–' },
];

export const models: readonly BenchModel[] = [
  {
    name: 'mnist-cnn',
    open: (_, quick) => mnist(quick),
    rows: [{ recipe: 'static 8-bit', options: static8, goals: { drop: 0.1 }, peer: '0.0 points' }],
  },
  {
    name: 'resnet20-cifar10',
    open: (_, quick) => cifar10(quick),
    rows: [
      {
        recipe: 'static 8-bit',
        options: static8,
        goals: { drop: 0.2, speedup: 1.8 },
        peer: '+0.1 points, agreement 98.0–98.3 %, 28–29 dB, 1.8×',
      },
      {
        recipe: 'weights int4 g32',
        options: int4,
        goals: { drop: 1.5, sqnr: 15.5 },
        peer: '−10.7 points (int4 per channel, 8-bit activations)',
      },
    ],
  },
  {
    name: 'squeezenet1.1',
    open: (float, quick) => imagenet('mean and deviation', float.inputs, 0, quick),
    rows: [
      {
        recipe: 'static 8-bit',
        options: static8,
        goals: { drop: 0.3, bytes: 1.34e6, speedup: 1.8 },
        peer: '−0.2 points, agreement 93.3 %, 32.5 dB, 1.34 MB, 1.8×',
      },
      {
        recipe: 'weights int4 g32',
        options: int4,
        goals: { drop: 1.3, sqnr: 21 },
        peer: '−32.2 points (int4 per channel, 8-bit activations)',
      },
    ],
  },
  {
    name: 'mobilenet-v2',
    open: (float, quick) => imagenet('-1 to 1', float.inputs, 1, quick),
    rows: [
      {
        recipe: 'static 8-bit',
        options: static8,
        goals: { drop: 1, bytes: 3.87e6, speedup: 2.1 },
        peer: '−1.1 points, agreement 96.2–96.7 %, 14.1 dB, 3.87 MB, 2.1×',
      },
      {
        recipe: 'weights int4 g32',
        options: int4,
        goals: { drop: 3.5, sqnr: 9 },
        peer: '−89.8 points (int4 per channel, 8-bit activations)',
      },
      {
        recipe: "dynamic, the peer's settings",
        options: { activations: 'dynamic', weights: 'uint8:tensor', corrections: [] },
        goals: { collapsed: true },
        peer: '−88 points, silently',
      },
      { recipe: 'dynamic', options: { activations: 'dynamic' }, goals: {}, peer: '–' },
    ],
  },
  {
    name: 'shakespeare-gpt',
    open: (_, quick) => shakespeare(quick),
    rows: [
      { recipe: 'weights int8', options: int8, goals: { nats: 0.02 }, peer: '0.00 %' },
      {
        recipe: 'weights int4 g32',
        options: int4,
        goals: { nats: 0.2 },
        peer: '+0.36 % symmetric, +0.27 % asymmetric, +0.21 % HQQ',
      },
    ],
  },
  { name: 'digits-ds2', open: (_, quick) => spokenDigits(quick), rows: recurrentRows },
  { name: 'silero-vad', open: (float, quick) => speechWindows(float, quick), rows: recurrentRows },
  { name: 'nsnet2-gru', open: (_, quick) => noisySpectra(quick), rows: recurrentRows },
];
