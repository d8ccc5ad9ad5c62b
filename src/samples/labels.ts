/** The right answers of evaluation samples: one class a sample, by position or by the sample's name. */
import { HalftoneError, messageOf } from '../base/errors.ts';
import { readNpy } from '../files/npy.ts';
import { readNpz } from '../files/npz.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { Samples } from './sample.ts';

export interface Labels {
  readonly description: string;
  /** Class indices, in the order of the file. */
  readonly values: readonly number[];
  /** The sample each belongs to, where the file names it. */
  readonly names?: readonly string[];
}

/**
 * @param name the file's name; its ending tells the format: `.npy`, `.npz` (`#array` after the name where it holds more
 * than one candidate), `.json` (an array, or an object name → label), else text with a label a line or `name,label`
 * @throws HalftoneError `invalid-file` naming the line or array that holds no class index.
 */
export function parseLabels(bytes: Uint8Array, name: string, array?: string): Labels {
  if (/\.npy$/i.test(name)) return { description: name, values: integersOf(readNpy(bytes, name), name) };
  if (/\.npz$/i.test(name)) return { description: name, values: fromNpz(bytes, name, array) };
  const text = new TextDecoder().decode(bytes);
  return /\.json$/i.test(name) ? fromJson(text, name) : fromText(text, name);
}

function integersOf(tensor: Tensor, subject: string): number[] {
  const long = tensor.shape.filter((dimension) => dimension !== 1);
  if (long.length > 1) {
    throw new HalftoneError(
      'invalid-file',
      `${subject}: expected one label a sample, got shape [${tensor.shape.join(',')}]`,
    );
  }
  const values =
    tensor.dtype === 'uint32' ? Array.from(new Uint32Array(tensor.bytes.slice().buffer)) : tensor.integers();
  return values.map((value, i) => checked(value, `${subject}, element ${i}`));
}

function checked(value: unknown, subject: string): number {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
  if (typeof number === 'number' && Number.isSafeInteger(number)) return number;
  throw new HalftoneError('invalid-file', `${subject}: expected a class index, got ${JSON.stringify(value)}`);
}

function fromNpz(bytes: Uint8Array, name: string, array: string | undefined): number[] {
  const arrays = [...readNpz(bytes, name).values()];
  const flat = arrays.filter((entry) => entry.shape.length === 1 && /^(u?int|bool)/.test(entry.dtype ?? ''));
  const found =
    array === undefined ? (arrays.length === 1 ? arrays : flat) : arrays.filter((entry) => entry.name === array);
  if (found.length === 1) return integersOf(found[0].read(), `${name}: array ${found[0].name}`);
  const names = arrays
    .map((entry) => `${entry.name} (${entry.dtype ?? entry.descr}[${entry.shape.join(',')}])`)
    .join(', ');
  throw new HalftoneError(
    'missing-data',
    `${name}: expected one list of labels${array === undefined ? '' : ` named ${array}`}, got ${names || 'no arrays'}; name it, as in ${name}#labels`,
  );
}

function fromJson(text: string, name: string): Labels {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new HalftoneError('invalid-file', `${name}: expected JSON, got ${messageOf(error)}`, { cause: error });
  }
  if (Array.isArray(value)) {
    return { description: name, values: value.map((label, i) => checked(label, `${name}, element ${i}`)) };
  }
  if (typeof value !== 'object' || value === null) {
    throw new HalftoneError('invalid-file', `${name}: expected an array of labels, got ${typeof value}`);
  }
  const entries = Object.entries(value);
  return {
    description: name,
    values: entries.map(([key, label]) => checked(label, `${name}, ${key}`)),
    names: entries.map(([key]) => key),
  };
}

function fromText(text: string, name: string): Labels {
  const lines = text
    .split(/\r?\n/)
    .map((line, i) => ({
      cells: line.split(/[,\t]/).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1')),
      line: i + 1,
    }))
    .filter(({ cells }) => cells.some((cell) => cell !== ''));
  // A first line whose last cell is no number is a header.
  if (lines.length > 1 && Number.isNaN(Number(lines[0].cells.at(-1)))) lines.shift();
  const values = lines.map(({ cells, line }) => checked(cells.at(-1), `${name}, line ${line}`));
  if (!lines.some(({ cells }) => cells.length > 1)) return { description: name, values };
  return { description: name, values, names: lines.map(({ cells }) => cells[0]) };
}

/**
 * The label of each sample, in the order of the samples: matched by name where the labels have names, else by position.
 * @throws HalftoneError `missing-data` when a sample has no label or the counts differ.
 */
export function labelsOf(samples: Samples, labels: Labels): readonly number[] {
  const { names } = labels;
  if (!names) {
    if (samples.count === undefined || samples.count === labels.values.length) return labels.values;
    throw new HalftoneError(
      'missing-data',
      `${labels.description}: expected ${samples.count} labels, one a sample of ${samples.description}, got ${labels.values.length}`,
    );
  }
  if (!samples.names) {
    throw new HalftoneError(
      'usage',
      `${labels.description}: expected labels by position, as ${samples.description} has no names, got labels by name`,
    );
  }
  const byName = new Map<string, number>();
  for (const [i, name] of names.entries()) byName.set(name, labels.values[i]);
  return samples.names.map((name) => {
    const file = name.slice(name.lastIndexOf('/') + 1);
    const label = [name, file, file.replace(/\.[^.]*$/, '')]
      .map((key) => byName.get(key))
      .find((value) => value !== undefined);
    if (label !== undefined) return label;
    throw new HalftoneError('missing-data', `${labels.description}: expected a label for ${name}, got none`);
  });
}
