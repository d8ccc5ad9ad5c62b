/**
 * Image resizing with Pillow's filters and its 8-bit arithmetic, so that pixels equal those a model saw in training.
 * Source: Pillow 12, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc) and Geometry.c (nearest).
 */
import { HalftoneError } from '../base/errors.ts';

/** Pixels row by row, `channels` bytes each. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  readonly data: Uint8Array;
}

interface Filter {
  readonly support: number;
  readonly weight: (x: number) => number;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function bicubic(distance: number): number {
  const x = Math.abs(distance);
  const a = -0.5; // Resample.c, bicubic_filter
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(distance: number): number {
  const x = Math.abs(distance);
  return x >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)); // Resample.c, hamming_filter
}

/** By PIL.Image.Resampling number; 0 (nearest) needs no weights. */
const filters: Readonly<Record<number, Filter>> = {
  1: { support: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: { support: 2, weight: bicubic },
  4: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  5: { support: 1, weight: hamming },
};

/** The numbers of PIL.Image.Resampling, which `preprocessor_config.json` uses. */
export const resampleNames: Readonly<Record<string, number>> = {
  nearest: 0,
  lanczos: 1,
  bilinear: 2,
  bicubic: 3,
  box: 4,
  hamming: 5,
};

/** Resample.c: PRECISION_BITS, the fixed-point bits of a weight. */
const precision = 22;

/**
 * @param resample 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming; all but nearest antialias when shrinking
 * @throws HalftoneError `unsupported` for another number.
 */
export function resize(picture: Picture, width: number, height: number, resample: number): Picture {
  if (picture.width === width && picture.height === height) return picture;
  if (resample === 0) return nearest(picture, width, height);
  const filter = filters[resample];
  if (!filter) {
    throw new HalftoneError('unsupported', `resample: expected 0 to 5 (PIL.Image.Resampling), got ${resample}`);
  }
  const wide = width === picture.width ? picture : stretch(picture, width, filter, true);
  return height === wide.height ? wide : stretch(wide, height, filter, false);
}

function nearest(picture: Picture, width: number, height: number): Picture {
  const { channels } = picture;
  const data = new Uint8Array(width * height * channels);
  let at = 0;
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y + 0.5) * (picture.height / height)) * picture.width;
    for (let x = 0; x < width; x++) {
      const from = (row + Math.floor((x + 0.5) * (picture.width / width))) * channels;
      for (let c = 0; c < channels; c++) data[at++] = picture.data[from + c];
    }
  }
  return { width, height, channels, data };
}

/** One axis to a new length; rounds to 8 bits, as Pillow does between its two passes. */
function stretch(picture: Picture, length: number, filter: Filter, horizontal: boolean): Picture {
  const { channels } = picture;
  const taps = weightsFor(horizontal ? picture.width : picture.height, length, filter);
  const width = horizontal ? length : picture.width;
  const height = horizontal ? picture.height : length;
  const data = new Uint8Array(width * height * channels);
  const [lineStep, tapStep] = horizontal ? [picture.width * channels, channels] : [channels, picture.width * channels];
  const [outLine, outStep] = horizontal ? [width * channels, channels] : [channels, width * channels];
  const lines = horizontal ? height : width;
  for (let i = 0; i < length; i++) {
    const { start, weights } = taps[i];
    for (let line = 0; line < lines; line++) {
      for (let c = 0; c < channels; c++) {
        let from = line * lineStep + start * tapStep + c;
        let sum = 1 << (precision - 1);
        for (let k = 0; k < weights.length; k++) {
          sum += picture.data[from] * weights[k];
          from += tapStep;
        }
        const value = sum >> precision;
        data[line * outLine + i * outStep + c] = Math.max(0, Math.min(255, value));
      }
    }
  }
  return { width, height, channels, data };
}

interface Taps {
  readonly start: number;
  readonly weights: readonly number[];
}

function weightsFor(from: number, to: number, filter: Filter): Taps[] {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const inverse = 1 / filterScale;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const raw = Array.from({ length: end - start }, (_, k) => filter.weight((k + start - center + 0.5) * inverse));
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    const weights = raw.map((weight) => {
      const scaled = (total === 0 ? weight : weight / total) * (1 << precision);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { start, weights };
  });
}
