/**
 * `npx tsx bench/make-llm.ts --gigabytes 2 --output DIR/model.onnx [--inline] [--seed 1]`: writes a Llama-like decoder
 * of about so many GB (10⁹ bytes) of made-up float32 weights, which ONNX Runtime loads and runs: embedding, layers of
 * RMSNorm, attention and a SiLU-gated MLP, the head. Attention has no mask and no positions: neither changes a weight.
 * `--embedding ROWSxCOLUMNS` writes a single Gather instead, for a tensor of any size.
 */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { create } from '@bufbuild/protobuf';
import {
  type AttributeProto,
  AttributeProtoSchema,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  ValueInfoProtoSchema,
} from '../src/files/onnx/generated/onnx_pb.ts';
import { bytesOf, type MadeWeight, type StreamedModel, type StreamOptions, writeStreamed } from './streamed-model.ts';

const float32 = 1;
const int64 = 7;
const irVersion = 8;
const opset = 17;
const headSize = 64;

export interface LanguageModelShape {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly vocabulary: number;
}

/** From so many GB on: hidden size and vocabulary. */
const widths = [
  { from: 1.5, hidden: 2048, vocabulary: 32_000 },
  { from: 0.4, hidden: 1024, vocabulary: 32_000 },
  { from: 0.04, hidden: 512, vocabulary: 4000 },
  { from: 0, hidden: 256, vocabulary: 2000 },
];

/** The sizes of which all weights together come near to `gigabytes`·10⁹ bytes. */
export function shapeFor(gigabytes: number): LanguageModelShape {
  const { hidden, vocabulary } = widths.find(({ from }) => gigabytes >= from) ?? widths[0];
  const perLayer = (gigabytes * 1e9) / 4 - 2 * vocabulary * hidden;
  // Llama's MLP is about 8/3 times as wide as the model (Touvron et al. 2023, section 2.2).
  const usual = 4 * hidden ** 2 + 8 * hidden ** 2;
  const layers = Math.max(1, Math.round(perLayer / usual));
  const room = (perLayer / layers - 4 * hidden ** 2) / (3 * hidden);
  return { hidden, vocabulary, layers, intermediate: Math.max(1, Math.round(room / 32)) * 32 };
}

/** Collects nodes and weights; names of nodes are those of their results. */
function createBuilder() {
  const nodes: NodeProto[] = [];
  const weights: MadeWeight[] = [];
  const constants: TensorProto[] = [];
  return {
    nodes,
    weights,
    constants,
    node(opType: string, input: string[], output: string, attributes: AttributeProto[] = []): string {
      nodes.push(
        create(NodeProtoSchema, { opType, name: `/${output}`, input, output: [output], attribute: attributes }),
      );
      return output;
    },
    /** A matrix `[K,N]` that keeps the size of what it is multiplied with. */
    matrix(name: string, rows: number, columns: number): string {
      weights.push({ name, shape: [rows, columns], mean: 0, deviation: 1 / Math.sqrt(rows) });
      return name;
    },
    weight(weight: MadeWeight): string {
      weights.push(weight);
      return weight.name;
    },
    floats(name: string, values: readonly number[]): string {
      const rawData = new Uint8Array(Float32Array.from(values).buffer);
      constants.push(create(TensorProtoSchema, { name, dims: [], dataType: float32, rawData }));
      return name;
    },
    integers(name: string, values: readonly number[]): string {
      const rawData = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
      constants.push(create(TensorProtoSchema, { name, dims: [BigInt(values.length)], dataType: int64, rawData }));
      return name;
    },
  };
}

type Builder = ReturnType<typeof createBuilder>;

const integer = (name: string, value: number) => create(AttributeProtoSchema, { name, type: 2, i: BigInt(value) });
const integers = (name: string, values: readonly number[]) =>
  create(AttributeProtoSchema, { name, type: 7, ints: values.map(BigInt) });

/** The whole decoder, from token ids to logits. */
export function languageModel(shape: LanguageModelShape): StreamedModel {
  const { hidden, layers, vocabulary } = shape;
  const build = createBuilder();
  build.floats('epsilon', [1e-5]);
  build.floats('two', [2]);
  build.floats('attention_scale', [1 / Math.sqrt(headSize)]);
  build.integers('heads_shape', [0, 0, hidden / headSize, headSize]);
  build.integers('hidden_shape', [0, 0, hidden]);
  const embedding = { name: 'embed_tokens.weight', shape: [vocabulary, hidden], mean: 0, deviation: 1 };
  let state = build.node('Gather', [build.weight(embedding), 'input_ids'], 'embeddings');
  for (let layer = 0; layer < layers; layer++) state = decoderLayer(build, `layers.${layer}`, state, shape);
  const normalized = rmsNorm(build, 'norm', state, hidden);
  build.node('MatMul', [normalized, build.matrix('lm_head.weight', hidden, vocabulary)], 'logits');
  return modelOf(build, { name: 'logits', shape: ['batch', 'sequence', vocabulary] });
}

/** One Gather from a table. */
export function embeddingModel(rows: number, columns: number): StreamedModel {
  const build = createBuilder();
  const table = { name: 'embed_tokens.weight', shape: [rows, columns], mean: 0, deviation: 1 };
  build.node('Gather', [build.weight(table), 'input_ids'], 'embeddings');
  return modelOf(build, { name: 'embeddings', shape: ['batch', 'sequence', columns] });
}

function decoderLayer(build: Builder, name: string, state: string, { hidden, intermediate }: LanguageModelShape) {
  const { node, matrix } = build;
  const linear = (part: string, input: string, rows: number, columns: number) =>
    node('MatMul', [input, matrix(`${name}.${part}.weight`, rows, columns)], `${name}.${part}`);

  const before = rmsNorm(build, `${name}.input_norm`, state, hidden);
  const heads = (part: string, order: readonly number[]) => {
    const projected = linear(`attention.${part}_proj`, before, hidden, hidden);
    const split = node('Reshape', [projected, 'heads_shape'], `${name}.${part}_heads`);
    return node('Transpose', [split], `${name}.${part}`, [integers('perm', order)]);
  };
  const queries = heads('q', [0, 2, 1, 3]);
  const keys = heads('k', [0, 2, 3, 1]);
  const values = heads('v', [0, 2, 1, 3]);
  const products = node('MatMul', [queries, keys], `${name}.products`);
  const scaled = node('Mul', [products, 'attention_scale'], `${name}.scores`);
  const shares = node('Softmax', [scaled], `${name}.shares`, [integer('axis', -1)]);
  const mixed = node('MatMul', [shares, values], `${name}.mixed`);
  const gathered = node('Transpose', [mixed], `${name}.gathered`, [integers('perm', [0, 2, 1, 3])]);
  const attended = node('Reshape', [gathered, 'hidden_shape'], `${name}.attended`);
  const attention = linear('attention.o_proj', attended, hidden, hidden);
  const middle = node('Add', [state, attention], `${name}.middle`);

  const inner = rmsNorm(build, `${name}.post_norm`, middle, hidden);
  const gate = linear('mlp.gate_proj', inner, hidden, intermediate);
  const up = linear('mlp.up_proj', inner, hidden, intermediate);
  const sigmoid = node('Sigmoid', [gate], `${name}.sigmoid`);
  const silu = node('Mul', [gate, sigmoid], `${name}.silu`);
  const gated = node('Mul', [silu, up], `${name}.gated`);
  return node('Add', [middle, linear('mlp.down_proj', gated, intermediate, hidden)], `${name}.output`);
}

/** x / √(mean x² + ε) · weight (Zhang and Sennrich 2019), in primitive operators as exporters write it. */
function rmsNorm({ node, weight }: Builder, name: string, input: string, hidden: number): string {
  const squares = node('Pow', [input, 'two'], `${name}.squares`);
  const mean = node('ReduceMean', [squares], `${name}.mean`, [integers('axes', [-1]), integer('keepdims', 1)]);
  const shifted = node('Add', [mean, 'epsilon'], `${name}.shifted`);
  const root = node('Sqrt', [shifted], `${name}.root`);
  const divided = node('Div', [input, root], `${name}.divided`);
  const scale = weight({ name: `${name}.weight`, shape: [hidden], mean: 1, deviation: 0.1 });
  return node('Mul', [divided, scale], name);
}

function modelOf(
  { nodes, weights, constants }: Builder,
  output: { name: string; shape: readonly (string | number)[] },
): StreamedModel {
  const info = (name: string, elemType: number, shape: readonly (string | number)[]) => {
    const dim = shape.map((size) => ({
      value:
        typeof size === 'number'
          ? { case: 'dimValue' as const, value: BigInt(size) }
          : { case: 'dimParam' as const, value: size },
    }));
    return create(ValueInfoProtoSchema, { name, type: { tensorType: { elemType, shape: { dim } } } });
  };
  return {
    model: create(ModelProtoSchema, {
      irVersion: BigInt(irVersion),
      producerName: 'halftone bench/make-llm',
      opsetImport: [{ domain: '', version: BigInt(opset) }],
    }),
    graph: create(GraphProtoSchema, {
      name: 'decoder',
      node: nodes,
      initializer: constants,
      input: [info('input_ids', int64, ['batch', 'sequence'])],
      output: [info(output.name, float32, output.shape)],
    }),
    weights,
  };
}

/** Writes a decoder of about so many GB to `path`; its weights in `PATH_data`, or all of it in one file. */
export function makeLanguageModel(path: string, gigabytes: number, options: Partial<StreamOptions> = {}): void {
  writeStreamed(path, languageModel(shapeFor(gigabytes)), { seed: 1, inline: false, ...options });
}

function program(): void {
  const { values } = parseArgs({
    options: {
      gigabytes: { type: 'string', default: '1' },
      output: { type: 'string' },
      inline: { type: 'boolean', default: false },
      seed: { type: 'string', default: '1' },
      embedding: { type: 'string' },
    },
  });
  const { output, inline } = values;
  if (output === undefined) throw new Error('--output: expected a file to write, got none');
  const gigabytes = Number(values.gigabytes);
  const seed = Number(values.seed);
  if (!(gigabytes > 0 && Number.isInteger(seed))) throw new Error('--gigabytes, --seed: expected numbers above 0');
  const table = values.embedding === undefined ? undefined : /^(\d+)x(\d+)$/.exec(values.embedding);
  if (table === null) throw new Error(`--embedding: expected ROWSxCOLUMNS, got ${values.embedding}`);
  const shape = shapeFor(gigabytes);
  const content = table ? embeddingModel(Number(table[1]), Number(table[2])) : languageModel(shape);
  mkdirSync(dirname(output), { recursive: true });
  writeStreamed(output, content, { seed, inline });
  const says = table
    ? ''
    : `, ${Object.entries(shape)
        .map(([name, size]) => `${name} ${size}`)
        .join(', ')}`;
  process.stdout.write(`${output}: ${(bytesOf(content.weights) / 1e9).toFixed(3)} GB of weights${says}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) program();
