/** Carries out a plan: writes quantized weights into the graph. Pure computation, no runtime. */
import { formatOf, intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { bestKernel } from '../kernel/index.ts';
import { cast } from '../lowerings/codes.ts';
import { lowerDynamic, lowerDynamicLstm } from '../lowerings/dynamic.ts';
import { lowerFoldAtLoad } from '../lowerings/fold-at-load.ts';
import { lowerGatherBlock } from '../lowerings/gather-block.ts';
import { lowerMatmulBnb4 } from '../lowerings/matmul-bnb4.ts';
import { lowerMatmulNbits } from '../lowerings/matmul-nbits.ts';
import { lowerQdq } from '../lowerings/qdq.ts';
import { SharedConstants, type Weight } from '../lowerings/weight.ts';
import { decibels } from '../metrics/error.ts';
import { eliminateDead } from '../passes/eliminate-dead.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { Planning } from './plan.ts';
import type { WeightResult } from './report.ts';
import type { Matrices } from './simulate.ts';
import { memoryStore, type Store } from './store.ts';

/**
 * Writes the quantized weights into the model that the planning was made for, which is edited.
 * Returns what became of weights that are stored as floats, or written in another way than planned.
 */
export function lowerModel(planning: Planning, matrices: Matrices, store: Store = memoryStore()): WeightResult[] {
  const { model } = planning;
  const constants = new SharedConstants(model);
  const results: WeightResult[] = [];
  const integerWeights = new Map<Value, { weight: Weight; matrix: QuantizedMatrix }>();
  const recurrent = new Map<Node, { weight: Weight; matrix: QuantizedMatrix }[]>();
  const plans = new Map(planning.plan.weights.map((plan) => [plan.tensor, plan]));

  for (const weight of planning.weights) {
    const quantize = plans.get(weight.value.name)?.quantize;
    if (!quantize) continue;
    const matrix = matrices.get(weight.value.name);
    const isLarge = weight.tensor.source !== undefined || matrix?.stored !== undefined;
    const { initializers } = weight.value.graph;
    const before = isLarge ? new Set(initializers) : undefined;
    if (!matrix) {
      const scheme = parseScheme(quantize.scheme);
      if (formatOf(scheme.format).kind === 'float') results.push(storeFloat(weight, scheme));
      if (before) putAway(initializers, before, store);
      continue;
    }
    switch (quantize.lowering) {
      case 'matmul-nbits':
        model.useDomain('com.microsoft', 1);
        lowerMatmulNbits(weight, matrix, constants, planning.plan.recipe.accuracyLevel);
        break;
      case 'matmul-bnb4':
        model.useDomain('com.microsoft', 1);
        lowerMatmulBnb4(weight, matrix, constants);
        break;
      case 'gather-block':
        model.useDomain('com.microsoft', 1);
        lowerGatherBlock(weight, matrix, constants);
        break;
      case 'dynamic': {
        const { node } = weight.use;
        if (weight.use.kind === 'recurrent') recurrent.set(node, [...(recurrent.get(node) ?? []), { weight, matrix }]);
        else lowerDynamic(weight, matrix, constants);
        break;
      }
      case 'fold-at-load':
        lowerFoldAtLoad(weight, matrix, constants);
        break;
      default:
        integerWeights.set(weight.value, { weight, matrix });
    }
    if (before) putAway(initializers, before, store);
  }
  for (const [node, parts] of recurrent) {
    const part = (input: number) => parts.find(({ weight }) => weight.use.input === input);
    const [input, hidden] = [part(1), part(2)];
    const apart = input && hidden ? refusesPair(input.matrix, hidden.matrix) : "the LSTM's other weight is not";
    if (input && hidden && !apart) {
      model.useDomain('com.microsoft', 1);
      lowerDynamicLstm(node, input.matrix, hidden.matrix);
    } else {
      for (const { weight, matrix } of parts) {
        lowerFoldAtLoad(weight, matrix, constants);
        const instead = { lowering: 'fold-at-load' as const, because: `not dynamic: ${apart}` };
        results.push({ tensor: weight.value.name, scheme: formatScheme(matrix.scheme), instead });
      }
    }
  }
  if (planning.integer && planning.parameters.size > 0) {
    lowerQdq(model, planning.integer, planning.parameters, integerWeights, constants);
  }
  for (const graph of model.graphs()) graph.sort();
  return results;
}

/** Initializers from this size on do not stay in memory when they belong to a weight that does not. */
const putAwayBytes = 2 ** 20;

function putAway(initializers: ReadonlySet<Value>, before: ReadonlySet<Value>, store: Store): void {
  for (const value of initializers) {
    const { tensor } = value;
    if (before.has(value) || !tensor || tensor.source || tensor.strings || tensor.byteLength < putAwayBytes) continue;
    store.align();
    const offset = store.append(tensor.bytes);
    value.tensor = new Tensor(tensor.dtype, tensor.shape, store.range([offset, tensor.byteLength]));
  }
}

/** Why the two weights of an LSTM cannot be in one integer operator, or undefined when they can. */
function refusesPair(input: QuantizedMatrix, hidden: QuantizedMatrix): string | undefined {
  const [a, b] = [input, hidden].map(({ scheme }) => intFormatOf(scheme.format));
  if (a.bits === 8 && b.bits === 8 && a.signed === b.signed) return undefined;
  return `DynamicQuantizeLSTM expects both weights in one 8-bit format, got ${a.id} and ${b.id}`;
}

/** Keeps a weight as float16 or bfloat16, cast back when the file is loaded, unless it overflows there. */
function storeFloat(weight: Weight, scheme: Scheme): WeightResult {
  const { value, tensor } = weight;
  const dtype = scheme.format as 'float16' | 'bfloat16';
  const floats = tensor.floats();
  const limit = dtype === 'float16' ? 65504 : Number.MAX_VALUE;
  const beyond = floats.find((x) => Math.abs(x) > limit);
  if (beyond !== undefined) {
    return { tensor: value.name, left: `holds ${beyond}, which ${dtype} cannot: it ends at ${limit}` };
  }
  const readers = [...value.users];
  const stored = value.graph.addInitializer(`${value.name}/${dtype}`, tensor.converted(dtype));
  const back = cast(value.graph, stored, tensor.dtype, `${value.name}/float`);
  for (const node of readers) {
    node.inputs.forEach((input, index) => {
      if (input === value) node.setInput(index, back);
    });
  }
  const rounded = stored.tensor?.floats() ?? floats;
  const sqnr = decibels(energyOf(floats), bestKernel().squaredError(floats, rounded));
  return { tensor: value.name, scheme: dtype, sqnr };
}

function energyOf(values: Float32Array): number {
  return bestKernel().squaredError(values, new Float32Array(values.length));
}

/** Drops what the result no longer needs: unread initializers, declared shapes of inner values. */
export function tidy(model: Model): void {
  eliminateDead.run(model);
  for (const graph of model.graphs()) {
    for (const node of graph.nodes) {
      for (const output of node.outputs) if (output && !output.isGraphOutput) output.type = undefined;
    }
  }
}
