/**
 * Pixels to a model's input, as a Hugging Face `preprocessor_config.json` describes it: resize, centre crop, rescale,
 * normalize, channel order. The keys and defaults are those of transformers 4.57, image_processing_*.py and
 * image_transforms.py; timm's `mean`, `std`, `interpolation`, `input_size` and `crop_pct` are read too.
 */
import { HalftoneError } from '../base/errors.ts';
import type { ValueInfo } from '../runtime/runtime.ts';
import { Tensor } from '../tensor/tensor.ts';
import { describeInput } from './arrays.ts';
import { convertTo } from './convert.ts';
import { type Picture, resampleNames, resize } from './resize.ts';

type Size =
  | { readonly kind: 'exact'; readonly height: number; readonly width: number }
  | { readonly kind: 'shortest'; readonly edge: number; readonly longest: number | undefined };

/** A parsed configuration. */
export interface Preprocessing {
  readonly resize: Size | undefined;
  /** A number of PIL.Image.Resampling. */
  readonly resample: number;
  readonly crop: { readonly height: number; readonly width: number } | undefined;
  /** Multiplies the 0…255 pixels; 1 where nothing is rescaled. */
  readonly factor: number;
  /** Added after the factor: -1 for processors that map pixels to -1…1 by themselves (`rescale_offset`). */
  readonly offset: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly blueFirst: boolean;
}

/** Processors that read a single number as the shorter edge; the others read it as a square. */
const shortestEdgeTypes = /^(ChineseCLIP|CLIP|ConvNext|MobileNetV|Levit|Bit|PoolFormer|MobileViT|LlavaNext)/;

const timmKeys: Readonly<Record<string, string>> = { mean: 'image_mean', std: 'image_std', interpolation: 'resample' };

/**
 * @param config the parsed JSON of a `preprocessor_config.json` (a vision-language model's `image_processor` part is found)
 * @throws HalftoneError `invalid-file` naming the key whose value cannot be used.
 */
export function parsePreprocessing(config: unknown, subject = 'preprocessor_config.json'): Preprocessing {
  const values = keysOf(config, subject);
  const wrong = (key: string, expected: string): HalftoneError =>
    new HalftoneError(
      'invalid-file',
      `${subject}: ${key}: expected ${expected}, got ${JSON.stringify(values.get(key))}`,
    );
  const flag = (key: string, otherwise: boolean): boolean => {
    const value = values.get(key) ?? otherwise;
    if (typeof value !== 'boolean') throw wrong(key, 'true or false');
    return value;
  };
  const number = (key: string, otherwise: number): number => {
    const value = values.get(key) ?? otherwise;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(key, 'a number');
    return value;
  };
  const list = (key: string, otherwise: number): readonly number[] => {
    const value = values.get(key) ?? otherwise;
    const numbers = Array.isArray(value) ? value : [value];
    if (numbers.length === 0 || !numbers.every((item) => typeof item === 'number'))
      throw wrong(key, 'a list of numbers');
    return numbers;
  };
  const resample = values.get('resample') ?? 2;
  const filter = typeof resample === 'string' ? resampleNames[resample.toLowerCase()] : resample;
  if (typeof filter !== 'number' || !(filter >= 0 && filter <= 5)) throw wrong('resample', '0 to 5');
  const normalized = flag('do_normalize', values.has('image_mean'));
  // The defaults differ from model to model: a configuration that leaves them to the class cannot be guessed.
  if (normalized && !(values.has('image_mean') && values.has('image_std'))) {
    throw wrong(values.has('image_mean') ? 'image_std' : 'image_mean', 'a list of numbers, as do_normalize is on');
  }
  const std = normalized ? list('image_std', 1) : [1];
  if (std.some((value) => value === 0)) throw wrong('image_std', 'numbers other than 0');
  const rescaled = flag('do_rescale', true);
  return {
    ...readGeometry(values, flag, wrong),
    resample: filter,
    factor: rescaled ? number('rescale_factor', 1 / 255) : 1,
    offset: rescaled && flag('rescale_offset', false) ? -1 : 0,
    mean: normalized ? list('image_mean', 0) : [0],
    std,
    blueFirst: flag('do_flip_channel_order', false) || values.get('channel_order') === 'BGR',
  };
}

function keysOf(config: unknown, subject: string): ReadonlyMap<string, unknown> {
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new HalftoneError(
      'invalid-file',
      `${subject}: expected an object, got ${JSON.stringify(config)?.slice(0, 80)}`,
    );
  }
  let record = config as Readonly<Record<string, unknown>>;
  for (const part of ['image_processor', 'pretrained_cfg', 'feature_extractor']) {
    const inner = record[part];
    if (typeof inner === 'object' && inner !== null) record = inner as Readonly<Record<string, unknown>>;
  }
  const values = new Map<string, unknown>();
  for (const [key, value] of Object.entries(record)) if (value !== null) values.set(timmKeys[key] ?? key, value);
  return values;
}

type Flag = (key: string, otherwise: boolean) => boolean;
type Wrong = (key: string, expected: string) => HalftoneError;

function readGeometry(
  values: ReadonlyMap<string, unknown>,
  flag: Flag,
  wrong: Wrong,
): Pick<Preprocessing, 'resize' | 'crop'> {
  const type = String(values.get('image_processor_type') ?? values.get('feature_extractor_type') ?? '');
  const input = values.get('input_size');
  if (Array.isArray(input) && input.length === 3 && !values.has('size')) {
    // timm, data/transforms_factory.py: the shorter edge to floor(size / crop_pct), then the centre.
    const [, height, width] = input.map((value) =>
      dimension(value, () => wrong('input_size', '[channels, height, width]')),
    );
    const edge = Math.floor(Math.min(height, width) / percent(values, wrong));
    return { resize: { kind: 'shortest', edge, longest: undefined }, crop: { height, width } };
  }
  const cropped = flag('do_center_crop', values.has('crop_size'));
  const size = flag('do_resize', values.has('size')) ? sizeFrom(values, type, cropped, wrong) : undefined;
  const crop = cropped ? cropFrom(values, wrong) : undefined;
  if (size?.kind !== 'shortest') return { resize: size, crop };
  if (type.startsWith('Levit')) {
    // LevitImageProcessor.resize: the shorter edge grows by 256/224 before the crop.
    return { resize: { ...size, edge: Math.trunc((256 / 224) * size.edge) }, crop };
  }
  if (!values.has('crop_pct') && !type.startsWith('ConvNext')) return { resize: size, crop };
  const { edge } = size;
  const square = { height: edge, width: edge };
  // ConvNextImageProcessor.resize: from 384 on the image is stretched to the square instead.
  if (edge >= 384) return { resize: { kind: 'exact', ...square }, crop };
  return { resize: { ...size, edge: Math.trunc(edge / percent(values, wrong)) }, crop: crop ?? square };
}

function percent(values: ReadonlyMap<string, unknown>, wrong: Wrong): number {
  const value = values.get('crop_pct') ?? 0.875;
  if (typeof value === 'number' && value > 0 && value <= 1) return value;
  throw wrong('crop_pct', 'a number above 0, at most 1');
}

function dimension(value: unknown, error: () => HalftoneError): number {
  if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= 16384) return value;
  throw error();
}

function sizeFrom(values: ReadonlyMap<string, unknown>, type: string, cropped: boolean, wrong: Wrong): Size {
  const size = values.get('size');
  const error = (): HalftoneError =>
    wrong('size', 'a number from 1 to 16384, {"height", "width"} or {"shortest_edge"}');
  if (typeof size === 'number') {
    const edge = dimension(size, error);
    const shortest = type === '' ? cropped : shortestEdgeTypes.test(type);
    return shortest ? { kind: 'shortest', edge, longest: undefined } : { kind: 'exact', height: edge, width: edge };
  }
  if (Array.isArray(size) && size.length === 2) {
    return { kind: 'exact', height: dimension(size[0], error), width: dimension(size[1], error) };
  }
  const record = (typeof size === 'object' && size !== null ? size : {}) as Readonly<Record<string, unknown>>;
  if (record.height !== undefined && record.width !== undefined) {
    return { kind: 'exact', height: dimension(record.height, error), width: dimension(record.width, error) };
  }
  const longest = record.longest_edge === undefined ? undefined : dimension(record.longest_edge, error);
  return { kind: 'shortest', edge: dimension(record.shortest_edge, error), longest };
}

function cropFrom(values: ReadonlyMap<string, unknown>, wrong: Wrong): { height: number; width: number } | undefined {
  const crop = values.get('crop_size') ?? values.get('size');
  const error = (): HalftoneError =>
    wrong(values.has('crop_size') ? 'crop_size' : 'size', 'a number or {"height", "width"}');
  if (typeof crop === 'number') return { height: dimension(crop, error), width: dimension(crop, error) };
  const record = (typeof crop === 'object' && crop !== null ? crop : {}) as Readonly<Record<string, unknown>>;
  const edge = record.shortest_edge;
  return { height: dimension(record.height ?? edge, error), width: dimension(record.width ?? edge, error) };
}

/** Resizes and crops; still 0…255 pixels. */
export function reframe(picture: Picture, settings: Preprocessing): Picture {
  let result = picture;
  if (settings.resize) {
    const [height, width] = targetSize(picture, settings.resize);
    result = resize(result, width, height, settings.resample);
  }
  return settings.crop ? centerCrop(result, settings.crop.height, settings.crop.width) : result;
}

/** transformers image_transforms.get_resize_output_image_size: the longer edge is cut to a whole number of pixels. */
function targetSize(picture: Picture, size: Size): readonly [number, number] {
  if (size.kind === 'exact') return [size.height, size.width];
  const { width, height } = picture;
  const [short, long] = width <= height ? [width, height] : [height, width];
  let newShort = size.edge;
  let newLong = Math.trunc((size.edge * long) / short);
  if (size.longest !== undefined && newLong > size.longest) {
    newShort = Math.max(1, Math.trunc((size.longest * newShort) / newLong));
    newLong = size.longest;
  }
  return width <= height ? [newLong, newShort] : [newShort, newLong];
}

/** transformers image_transforms.center_crop: a smaller image is padded with black. */
function centerCrop(picture: Picture, height: number, width: number): Picture {
  const { channels } = picture;
  if (picture.height === height && picture.width === width) return picture;
  const data = new Uint8Array(height * width * channels);
  const top = Math.floor((picture.height - height) / 2);
  const left = Math.floor((picture.width - width) / 2);
  const from = Math.max(0, left);
  const to = Math.min(picture.width, left + width);
  for (let y = Math.max(0, -top); y < height && y + top < picture.height; y++) {
    const row = (y + top) * picture.width;
    data.set(
      picture.data.subarray((row + from) * channels, (row + to) * channels),
      (y * width + from - left) * channels,
    );
  }
  return { width, height, channels, data };
}

/** How a model takes images: the axis of the channels, and how many. */
export interface ImageLayout {
  readonly channels: 1 | 3;
  readonly channelsLast: boolean;
  /** False for an input without a batch axis. */
  readonly batched: boolean;
}

/**
 * Finds the channels in an image input: the axis of length 3 or 1, first or last after the batch.
 * @throws HalftoneError `unsupported` when the input is no image.
 */
export function imageLayout(input: ValueInfo): ImageLayout {
  const rank = input.shape.length;
  if (rank === 3 || rank === 4) {
    const batched = rank === 4;
    const first = input.shape[rank - 3];
    const last = input.shape[rank - 1];
    for (const channels of [3, 1] as const) {
      if (first === channels) return { channels, channelsLast: false, batched };
      if (last === channels) return { channels, channelsLast: true, batched };
    }
  }
  throw new HalftoneError(
    'unsupported',
    `input ${input.name}: expected an image input ([N,3,H,W], [N,H,W,3] or 1 channel), got ${describeInput(input)}; give the samples as .npz`,
  );
}

/**
 * A decoded RGB picture as the model's input: reframed, rescaled, normalized, in the model's layout and type.
 * @throws HalftoneError `usage` when the result does not have the size the model takes.
 */
export function preprocess(picture: Picture, settings: Preprocessing, input: ValueInfo, subject: string): Tensor {
  const layout = imageLayout(input);
  const framed = reframe(layout.channels === 1 ? toGray(picture) : picture, settings);
  const { channels, channelsLast } = layout;
  const { width, height } = framed;
  const plane = channelsLast ? [height, width, channels] : [channels, height, width];
  const shape = layout.batched ? [1, ...plane] : plane;
  const misfit = shape.some((found, axis) => {
    const want = input.shape[axis];
    return !(layout.batched && axis === 0) && typeof want === 'number' && want >= 0 && want !== found;
  });
  if (misfit) {
    throw new HalftoneError(
      'usage',
      `${subject}: input ${input.name}: expected ${describeInput(input)}, got [${shape.join(',')}] after preprocessing; correct "size" or "crop_size"`,
      { fields: { input: input.name } },
    );
  }
  const values = new Float32Array(width * height * channels);
  for (let c = 0; c < channels; c++) {
    const source = settings.blueFirst ? channels - 1 - c : c;
    const mean = settings.mean[c % settings.mean.length];
    const std = settings.std[c % settings.std.length];
    const [start, step] = channelsLast ? [c, channels] : [c * width * height, 1];
    for (let i = 0; i < width * height; i++) {
      const value = framed.data[i * channels + source] * settings.factor + settings.offset;
      values[start + i * step] = (value - mean) / std;
    }
  }
  return convertTo(Tensor.float32(shape, values), input.dtype, `${subject}: input ${input.name}`);
}

/** Pillow, src/libImaging/Convert.c, L24: ITU-R 601-2 luma in 16-bit fixed point. */
function toGray(picture: Picture): Picture {
  const { width, height } = picture;
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) {
    const at = i * picture.channels;
    data[i] = (picture.data[at] * 19595 + picture.data[at + 1] * 38470 + picture.data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return { width, height, channels: 1, data };
}
