/** The shared data of the smaller models: key words, films, pictures with things in them, and children's stories. */
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Session, Tensor } from '../src/index.ts';
import { imageSamples } from '../src/samples/images.ts';
import { nodeImageDecoder } from '../src/samples/node.ts';
import { parsePreprocessing } from '../src/samples/preprocess.ts';
import { assets, type Data, indexed } from './data.ts';

const read = (...path: string[]) => readFileSync(join(assets, ...path));

/** Spoken key words as 49 × 10 features; ASSETS.md gives their scale and zero point. Every fourth calibrates. */
export function keyWords(quick: boolean): Data {
  const bytes = read('data/kws01/kws01_1000x490_int8.bin');
  const classes = read('data/kws01/y_labels.csv')
    .toString()
    .trim()
    .split('\n')
    .map((line) => Number(line.split(',')[2]));
  const of = (description: string, indices: readonly number[]) =>
    indexed(description, indices.length, (index) => {
      const codes = new Int8Array(bytes.buffer, bytes.byteOffset + indices[index] * 490, 490);
      const values = Float32Array.from(codes, (code) => (code - 83) * 0.5847029089927673);
      return { input: Tensor.float32([1, 1, 49, 10], values) };
    });
  const all = classes.map((_, index) => index);
  const [first, rest] = [all.filter((index) => index % 4 === 0), all.filter((index) => index % 4 !== 0)];
  const tested = quick ? rest.slice(0, 200) : rest;
  return {
    calibration: of('kws01, every fourth', first),
    evaluation: of('kws01, the others', tested),
    labels: tested.map((index) => classes[index]),
    says: `${first.length} calibration, ${tested.length} test words`,
  };
}

/** What users saw and did not see, 100 films each. */
export function films(quick: boolean): Data {
  const lines = read('data/movielens/ml-1m.test.negative').toString().trim().split('\n');
  const of = (description: string, from: number, count: number) =>
    indexed(description, count, (index) => {
      const [pair, ...negatives] = lines[from + index].split('\t');
      const [user, item] = pair.slice(1, -1).split(',').map(Number);
      const items = [item, ...negatives.map(Number)];
      return {
        user: Tensor.int64(
          [items.length],
          items.map(() => user),
        ),
        item: Tensor.int64([items.length], items),
      };
    });
  const tested = quick ? 100 : 1000;
  return {
    calibration: of('the first users of ml-1m', 0, 128),
    evaluation: of('the next users of ml-1m', 128, tested),
    says: `128 calibration, ${tested} test users with 100 films each`,
  };
}

/** Pictures as nanodet takes them: 320 × 320, blue first. */
export function things(float: Session, quick: boolean): Data {
  const folder = join(assets, 'data/imagenet-sample');
  const settings = parsePreprocessing({
    size: { height: 320, width: 320 },
    image_mean: [0.485, 0.456, 0.406],
    image_std: [0.229, 0.224, 0.225],
  });
  const open = (pattern: RegExp, description: string, every: number) => {
    const files = readdirSync(folder)
      .sort()
      .filter((name) => pattern.test(name))
      .filter((_, index) => index % every === 0)
      .map((name) => ({ name, read: async () => new Uint8Array(await readFile(join(folder, name))) }));
    return blueFirst(imageSamples(files, float.inputs, settings, nodeImageDecoder(), description));
  };
  const calibration = open(/0\.jpg$/, 'imagenet-sample/*0.jpg', 1);
  const evaluation = open(/4\.jpg$/, 'imagenet-sample/*4.jpg', quick ? 5 : 2);
  return { calibration, evaluation, says: `${calibration.count} calibration, ${evaluation.count} test pictures` };
}

function blueFirst(samples: Data['calibration']): Data['calibration'] {
  return {
    ...samples,
    async *[Symbol.asyncIterator]() {
      for await (const feeds of samples) {
        const [[name, tensor]] = Object.entries(feeds);
        const values = tensor.floats().slice();
        const plane = values.length / 3;
        values.set(tensor.floats().subarray(0, plane), 2 * plane);
        values.set(tensor.floats().subarray(2 * plane), 0);
        yield { [name]: Tensor.float32(tensor.shape, values) };
      }
    },
  };
}

const storyLength = 128;

/** Windows of the excerpt, in the tokens of llama2.c's 512-token vocabulary. */
export function stories(quick: boolean): Data {
  const ids = encode(read('data/text/tinystories_train_excerpt.txt').toString(), readVocabulary());
  const border = Math.floor(ids.length * 0.6);
  const of = (description: string, from: number, to: number, count: number) =>
    indexed(description, count, (index) => {
      const start = from + Math.floor((index * (to - from - storyLength)) / Math.max(count - 1, 1));
      return { input_ids: Tensor.int64([1, storyLength], [1, ...ids.slice(start + 1, start + storyLength)]) };
    });
  const tested = quick ? 40 : 200;
  return {
    calibration: of('first 60 % of the TinyStories excerpt', 0, border, 128),
    evaluation: of('the rest of it', border, ids.length, tested),
    says: `128 calibration, ${tested} test windows of ${storyLength} tokens`,
  };
}

interface Vocabulary {
  readonly ids: ReadonlyMap<string, number>;
  readonly scores: readonly number[];
  readonly texts: readonly string[];
}

/** llama2.c's tokenizer file: the longest length, then score, length and bytes of each token. */
function readVocabulary(): Vocabulary {
  const bytes = read('models/stories260K-tok512.bin');
  const texts: string[] = [];
  const scores: number[] = [];
  for (let at = 4; at < bytes.length; ) {
    scores.push(bytes.readFloatLE(at));
    const length = bytes.readInt32LE(at + 4);
    texts.push(bytes.toString('utf8', at + 8, at + 8 + length));
    at += 8 + length;
  }
  return { ids: new Map(texts.map((text, id) => [text, id])), scores, texts };
}

/** Byte-pair encoding: the neighbours whose union scores best are joined first (llama2.c, run.c, `encode`). */
function encode(text: string, { ids, scores, texts }: Vocabulary): number[] {
  return text.split('\n').flatMap((line) => {
    const tokens = Array.from(line.length > 0 ? ` ${line}` : '', (char) => ids.get(char) ?? 0);
    for (;;) {
      let best = -1;
      let score = Number.NEGATIVE_INFINITY;
      for (let i = 0; i + 1 < tokens.length; i++) {
        const joined = ids.get(texts[tokens[i]] + texts[tokens[i + 1]]);
        if (joined !== undefined && scores[joined] > score) {
          best = i;
          score = scores[joined];
        }
      }
      if (best < 0) return tokens;
      tokens.splice(best, 2, ids.get(texts[tokens[best]] + texts[tokens[best + 1]]) as number);
    }
  });
}
