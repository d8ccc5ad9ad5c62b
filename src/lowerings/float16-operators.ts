/** Which operators float16 models leave in float32, and why; which inputs of the others are float32 by definition. */
import type { Node } from '../graph/node.ts';

const defined = 'ONNX does not define it for float16';
const scales = 'its scales are float32';
const random = 'random numbers are drawn in float32, so that they stay the same';
const sequences = 'sequences keep their element type';
const crash = 'ONNX Runtime 1.30 crashes on such a Transpose and MatMul in float16';
const precise = 'its sums need more digits than float16 has';

/** Operators of the ONNX domain (onnx 1.23, docs/Operators.md) that stay float32. */
const blocked: Readonly<Record<string, string>> = {
  Bernoulli: random,
  BlackmanWindow: 'its result is a table in float32',
  Celu: defined,
  ConcatFromSequence: sequences,
  DFT: precise,
  DequantizeLinear: scales,
  Det: precise,
  DynamicQuantizeLinear: scales,
  EyeLike: 'ONNX Runtime has no float16 kernel that could take its dtype',
  HammingWindow: 'its result is a table in float32',
  HannWindow: 'its result is a table in float32',
  MelWeightMatrix: 'its result is a table in float32',
  Multinomial: random,
  NonMaxSuppression: defined,
  Optional: sequences,
  OptionalGetElement: sequences,
  QLinearConv: scales,
  QLinearMatMul: scales,
  QuantizeLinear: scales,
  RandomNormal: random,
  RandomNormalLike: random,
  RandomUniform: random,
  RandomUniformLike: random,
  Range: defined,
  STFT: precise,
  SequenceAt: sequences,
  SequenceConstruct: sequences,
  SequenceEmpty: sequences,
  SequenceErase: sequences,
  SequenceInsert: sequences,
  SequenceMap: sequences,
  SplitToSequence: sequences,
  TfIdfVectorizer: defined,
};

/** Operators that learned float16 in a later operator set (onnx, docs/Changelog.md). */
const since: Readonly<Record<string, number>> = { CumSum: 14, IsInf: 20 };

/** Operators of ONNX Runtime's own domain that take float16 on every provider that has them. */
const contrib: readonly string[] = ['MatMulNBits', 'GatherBlockQuantized'];

/** Why the operator itself stays float32 at this operator set, or undefined where it can be float16. */
export function refusesFloat16(node: Node, opset: number): string | undefined {
  if (node.domain === 'com.microsoft') {
    return contrib.includes(node.op) ? undefined : 'not every provider of ONNX Runtime has it for float16';
  }
  if (node.domain !== '') return `nothing is known of operators of "${node.domain}"`;
  const first = since[node.op];
  if (first !== undefined && opset < first) return `ONNX defines it for float16 only from operator set ${first} on`;
  return blocked[node.op] ?? (crashes(node) ? crash : undefined);
}

/**
 * A Transpose that moves the first axis behind the others but the last one or two, and a MatMul that reads it. Where
 * ONNX Runtime 1.30 finds them in float16 it takes them for one FusedMatMul (MatmulTransposeFusion) and dies loading the
 * model for CPUs, whether or not the MatMul is float16 (measured).
 */
function crashes(node: Node): boolean {
  if (node.is('MatMul')) return node.inputs.some((value) => value?.producer && movesBatch(value.producer));
  return movesBatch(node) && [...node.output().users].some((user) => user.is('MatMul'));
}

function movesBatch(node: Node): boolean {
  const perm = node.is('Transpose') ? node.ints('perm') : undefined;
  return perm !== undefined && perm.length >= 3 && perm.indexOf(0) >= perm.length - 2 && perm[0] === 1;
}

/** True for an input that stays float32 where the node is float16: scales and regions of resizing. */
export function isFloat32Input(node: Node, index: number): boolean {
  if (node.is('Resize')) return index > 0;
  return node.is('Upsample') && index === 1;
}

/** True for an output that stays float32: the statistics that LayerNormalization hands out. */
export function isFloat32Output(node: Node, index: number): boolean {
  return node.is('LayerNormalization') && index > 0;
}

/** True for the scales of packed weights: as float16 they must hold what the weights were fitted to. */
export function isScaleInput(node: Node, index: number): boolean {
  return node.domain === 'com.microsoft' && contrib.includes(node.op) && index === 2;
}

/** True for a bound beyond which nothing is cut: as float16 it may become infinite. */
export function isBound(node: Node, index: number): boolean {
  return node.is('Clip') && index > 0;
}
