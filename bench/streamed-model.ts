/** Writes an ONNX model of float weights that are made up while they are written, so that memory does not grow with it. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { createGaussian, createRandom } from '../src/base/random.ts';
import {
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from '../src/files/onnx/generated/onnx_pb.ts';

/** A float32 tensor to make up, Gaussian. */
export interface MadeWeight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly mean: number;
  readonly deviation: number;
}

export interface StreamedModel {
  /** Everything but the graph. */
  readonly model: ModelProto;
  /** Nodes, inputs, outputs and small constants. */
  readonly graph: GraphProto;
  readonly weights: readonly MadeWeight[];
}

export interface StreamOptions {
  readonly seed: number;
  /** Everything in one file instead of tensors in `PATH_data`. */
  readonly inline: boolean;
}

/** The limit of one protobuf message. */
const maxMessageBytes = 2 ** 31 - 1;
/** Tensors in external files start at multiples of it, as onnx's own tools place them. */
const alignment = 4096;
/** Numbers made once, 64 MiB; every tensor takes them from a place of its own, and scaled. */
const blockLength = 2 ** 24;
const chunkLength = 2 ** 20;
const float32 = 1;

const countOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/** Bytes of all weights. */
export function bytesOf(weights: readonly MadeWeight[]): number {
  return weights.reduce((sum, { shape }) => sum + 4 * countOf(shape), 0);
}

/** Writes the model; the same seed gives the same bytes. */
export function writeStreamed(path: string, content: StreamedModel, { seed, inline }: StreamOptions): void {
  const bytes = bytesOf(content.weights);
  if (inline && bytes > maxMessageBytes - 2 ** 24) {
    throw new Error(`${path}: expected less than 2 GiB in one file, got ${bytes} bytes; leave out --inline`);
  }
  const numbers = createNumbers(seed, Math.min(blockLength, bytes / 4));
  if (inline) writeInline(path, content, numbers);
  else writeExternal(path, content, numbers);
}

/** Passes a weight's bytes on, piece by piece. A piece holds until the next one. */
type Numbers = (weight: MadeWeight, write: (bytes: Uint8Array) => void) => void;

function createNumbers(seed: number, length: number): Numbers {
  const random = createRandom(seed);
  const block = Float32Array.from({ length }, createGaussian(random));
  const chunk = new Float32Array(chunkLength);
  return ({ shape, mean, deviation }, write) => {
    const count = countOf(shape);
    let at = Math.floor(random() * length);
    for (let done = 0; done < count; ) {
      const size = Math.min(chunkLength, count - done, length - at);
      for (let i = 0; i < size; i++) chunk[i] = mean + deviation * block[at + i];
      write(new Uint8Array(chunk.buffer, 0, 4 * size));
      done += size;
      at += size;
      // Another place in every pass, so that a tensor larger than the block does not repeat.
      if (at === length) at = Math.floor(random() * length);
    }
  };
}

function writeExternal(path: string, { model, graph, weights }: StreamedModel, numbers: Numbers): void {
  const dataPath = `${path}_data`;
  const location = basename(dataPath);
  let end = 0;
  withFile(dataPath, (write) => {
    for (const weight of weights) {
      const offset = Math.ceil(end / alignment) * alignment;
      write(new Uint8Array(offset - end));
      numbers(weight, write);
      end = offset + 4 * countOf(weight.shape);
      const entries = { location, offset: String(offset), length: String(end - offset) };
      const proto = tensorProto(weight);
      proto.dataLocation = 1;
      proto.externalData = Object.entries(entries).map(([key, value]) =>
        create(StringStringEntryProtoSchema, { key, value }),
      );
      graph.initializer.push(proto);
    }
  });
  model.graph = graph;
  withFile(path, (write) => write(toBinary(ModelProtoSchema, model)));
}

/**
 * Protobuf messages can be written part after part: fields may come in any order, and a nested one needs no more than
 * its length in front.
 */
function writeInline(path: string, { model, graph, weights }: StreamedModel, numbers: Numbers): void {
  const { graph: graphField } = ModelProtoSchema.field;
  const { initializer } = GraphProtoSchema.field;
  const { rawData } = TensorProtoSchema.field;
  const graphBytes = toBinary(GraphProtoSchema, graph);
  const parts = weights.map((weight) => {
    const length = 4 * countOf(weight.shape);
    const head = toBinary(TensorProtoSchema, tensorProto(weight));
    const data = fieldHead(rawData.number, length);
    const start = fieldHead(initializer.number, head.byteLength + data.byteLength + length);
    return { weight, length, head: Buffer.concat([start, head, data]) };
  });
  const graphLength = parts.reduce((sum, { head, length }) => sum + head.byteLength + length, graphBytes.byteLength);
  withFile(path, (write) => {
    write(toBinary(ModelProtoSchema, model));
    write(fieldHead(graphField.number, graphLength));
    write(graphBytes);
    for (const { weight, head } of parts) {
      write(head);
      numbers(weight, write);
    }
  });
}

const fieldHead = (field: number, length: number) =>
  new BinaryWriter().tag(field, WireType.LengthDelimited).uint32(length).finish();

function tensorProto({ name, shape }: MadeWeight): TensorProto {
  return create(TensorProtoSchema, { name, dims: shape.map(BigInt), dataType: float32 });
}

function withFile(path: string, work: (write: (bytes: Uint8Array) => void) => void): void {
  const file = openSync(path, 'w');
  try {
    work((bytes) => {
      for (let done = 0; done < bytes.byteLength; ) done += writeSync(file, bytes, done);
    });
  } finally {
    closeSync(file);
  }
}
