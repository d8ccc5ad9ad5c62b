/** The shared speech data as samples for the three recurrent models. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createGaussian, createRandom } from '../src/base/random.ts';
import { readNpz } from '../src/files/npz.ts';
import { readZip } from '../src/files/zip.ts';
import { type Feeds, type Session, Tensor } from '../src/index.ts';
import { createErrorMeter } from '../src/metrics/error.ts';
import { assets, type Data, indexed } from './data.ts';

/** Log-mel features of spoken digit strings with their texts, for the CTC recogniser. */
export function spokenDigits(quick: boolean): Data {
  const { alphabet, blank } = JSON.parse(readFileSync(join(assets, 'models/digits-ds2.json'), 'utf8')) as {
    alphabet: string;
    blank: number;
  };
  const open = (name: string, limit: number) => {
    const bytes = readFileSync(join(assets, 'data', name));
    const arrays = readNpz(bytes, name);
    const texts = readTexts(readZip(bytes, name).get('texts.npy')?.read() ?? new Uint8Array(0));
    const count = Math.min(texts.length, limit);
    const samples = indexed(name, count, (index) => {
      const array = arrays.get(`f${index}`)?.read();
      if (!array) throw new Error(`${name}: expected array f${index}, got none`);
      return { features: Tensor.float32([1, ...array.shape], array.floats()) };
    });
    return { samples, texts };
  };
  const calibration = open('digits-ds2-calib.npz', 64).samples;
  const { samples, texts } = open('digits-ds2-eval.npz', quick ? 30 : 200);
  return {
    calibration,
    evaluation: samples,
    says: `${calibration.count} calibration, ${samples.count} test recordings`,
    score: {
      name: 'CER',
      async measure(float, quantized) {
        const edits = { float: 0, quantized: 0 };
        let characters = 0;
        let index = 0;
        for await (const feeds of samples) {
          const text = texts[index++];
          characters += text.length;
          for (const [key, session] of [['float', float] as const, ['quantized', quantized] as const]) {
            const { log_probs: scores } = await session.run(feeds);
            edits[key] += editDistance(greedyText(scores, alphabet, blank), text);
          }
        }
        return { float: (100 * edits.float) / characters, quantized: (100 * edits.quantized) / characters };
      },
    },
  };
}

/** The strings of a one-dimensional npy array of fixed-width UTF-32 text, which no model can be fed. */
function readTexts(npy: Uint8Array): string[] {
  const view = new DataView(npy.buffer, npy.byteOffset, npy.byteLength);
  const start = 10 + view.getUint16(8, true);
  const header = new TextDecoder('latin1').decode(npy.subarray(10, start));
  const width = Number(/'<U(\d+)'/.exec(header)?.[1]);
  const count = Number(/\((\d+),\)/.exec(header)?.[1]);
  return Array.from({ length: count }, (_, item) => {
    const points = Array.from({ length: width }, (_, i) => view.getUint32(start + 4 * (item * width + i), true));
    return String.fromCodePoint(...points.filter((point) => point !== 0));
  });
}

/** The best class of every frame, repetitions and blanks removed. */
function greedyText(scores: Tensor, alphabet: string, blank: number): string {
  const classes = scores.shape[scores.shape.length - 1];
  const values = scores.floats();
  let text = '';
  let last = blank;
  for (let start = 0; start < values.length; start += classes) {
    let best = 0;
    for (let i = 1; i < classes; i++) if (values[start + i] > values[start + best]) best = i;
    if (best !== last && best !== blank) text += alphabet[best];
    last = best;
  }
  return text;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}

const sampleRate = 16_000;

/** The samples of the shared 16-bit mono recording, −1…1. */
function readSpeech(): Float32Array {
  const bytes = readFileSync(join(assets, 'data/silero_test.wav'));
  const start = bytes.indexOf('data', 12, 'latin1') + 8;
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, bytes.byteLength - start);
  return Float32Array.from({ length: view.byteLength >> 1 }, (_, i) => view.getInt16(2 * i, true) / 32_768);
}

/** The recording's first third calibrates. */
const calibrationSeconds = 20;

/**
 * Voice activity. The model takes 512 new samples behind 64 old ones and hands its state on; the float model is run once
 * over the recording so that every sample carries the state it would have in use.
 */
export async function speechWindows(float: Session, quick: boolean): Promise<Data> {
  const speech = readSpeech();
  const context = 64;
  const step = 512;
  const count = Math.floor(speech.length / step);
  const feeds: Feeds[] = [];
  let state = Tensor.float32([2, 1, 128], new Float32Array(256));
  const sr = Tensor.int64([], [sampleRate]);
  const windowAt = (index: number) => {
    const values = new Float32Array(context + step);
    for (let i = 0; i < values.length; i++) values[i] = speech[index * step + i - context] ?? 0;
    return Tensor.float32([1, values.length], values);
  };
  for (let index = 0; index < count; index++) {
    const feed = { input: windowAt(index), state, sr };
    feeds.push(feed);
    state = (await float.run(feed)).stateN;
  }
  const border = Math.floor((calibrationSeconds * sampleRate) / step);
  const early = feeds.slice(0, border).filter((_, index) => index % 5 === 0);
  const late = feeds.slice(border, quick ? border + 200 : count);
  return {
    calibration: indexed('silero_test.wav, first 20 s', early.length, (index) => early[index]),
    evaluation: indexed('silero_test.wav, after 20 s', late.length, (index) => late[index]),
    says: `${early.length} calibration, ${late.length} test windows of 32 ms`,
    score: {
      name: 'SQNR, state carried',
      async measure(_, quantized) {
        const meter = createErrorMeter();
        let own = late[0].state;
        for (const feed of late) {
          const wanted = await float.run(feed);
          const got = await quantized.run({ ...feed, state: own });
          own = got.stateN;
          meter.add(wanted.output.floats(), got.output.floats());
        }
        return { quantized: meter.summary().sqnr };
      },
    },
  };
}

/** Log power spectra of noisy speech: 320-point frames every 160 samples, root Hann window, 200 frames a sample. */
export function noisySpectra(quick: boolean): Data {
  const speech = readSpeech();
  const level = Math.sqrt(speech.reduce((sum, x) => sum + x * x, 0) / speech.length);
  const noise = createGaussian(createRandom(7));
  // White noise 10 dB below the speech: the task is to remove it.
  const noisy = speech.map((x) => x + noise() * level * 10 ** (-10 / 20));
  const frames = 200;
  const hop = 160;
  const all: Feeds[] = [];
  const count = Math.floor(noisy.length / (frames * hop));
  for (let index = 0; index < count; index++) all.push(spectrumAt(noisy, index, frames, hop));
  const border = calibrationSeconds / 2;
  const late = all.slice(border, quick ? border + 5 : all.length);
  return {
    calibration: indexed('noisy speech, first 20 s', border, (index) => all[index]),
    evaluation: indexed('noisy speech, after 20 s', late.length, (index) => late[index]),
    says: `${border} calibration, ${late.length} test pieces of 2 s`,
  };
}

function spectrumAt(signal: Float32Array, index: number, frames: number, hop: number): Feeds {
  const values = new Float32Array(frames * 161);
  for (let frame = 0; frame < frames; frame++) {
    values.set(logPower(signal, (index * frames + frame) * hop), frame * 161);
  }
  return { input: Tensor.float32([1, frames, 161], values) };
}

const frameLength = 320;
const cosines = Float64Array.from({ length: frameLength }, (_, i) => Math.cos((2 * Math.PI * i) / frameLength));
const sines = Float64Array.from({ length: frameLength }, (_, i) => Math.sin((2 * Math.PI * i) / frameLength));
const rootHann = Float64Array.from(cosines, (cosine) => Math.sqrt(0.5 - 0.5 * cosine));

/** log10 of the power in 161 bins, as the DNS-Challenge baseline computes it (NSNet2, featurelib.py, `logpow`). */
function logPower(signal: Float32Array, start: number): Float32Array {
  const windowed = rootHann.map((weight, i) => weight * (signal[start + i] ?? 0));
  return Float32Array.from({ length: 161 }, (_, bin) => {
    let real = 0;
    let imaginary = 0;
    for (let i = 0; i < frameLength; i++) {
      const phase = (bin * i) % frameLength;
      real += windowed[i] * cosines[phase];
      imaginary -= windowed[i] * sines[phase];
    }
    return Math.log10(Math.max(real * real + imaginary * imaginary, 1e-12));
  });
}
