/** Carries out a plan: quantizes each weight and writes it into the graph. Pure computation, no runtime. */
import { HalftoneError } from '../base/errors.ts';
import { formatOf, intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import { formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { matrixError, reference } from '../kernel/index.ts';
import { cast } from '../lowerings/codes.ts';
import { lowerDynamic, lowerDynamicLstm } from '../lowerings/dynamic.ts';
import { lowerFoldAtLoad } from '../lowerings/fold-at-load.ts';
import { lowerGatherBlock } from '../lowerings/gather-block.ts';
import type { LoweringId } from '../lowerings/index.ts';
import { lowerMatmulNbits } from '../lowerings/matmul-nbits.ts';
import { lowerQdq } from '../lowerings/qdq.ts';
import { SharedConstants, type Weight } from '../lowerings/weight.ts';
import { decibels } from '../metrics/error.ts';
import { eliminateDead } from '../passes/eliminate-dead.ts';
import { solverOf } from '../solvers/index.ts';
import { toMatrix } from '../tensor/matrix-view.ts';
import { withBiasRoom } from './bias-room.ts';
import type { Planning, WeightPlan } from './plan.ts';
import type { Recipe } from './recipe.ts';
import type { Matrices } from './simulate.ts';

/** What became of one weight. */
export interface WeightResult {
  readonly tensor: string;
  /** The scheme as stored; scales fall back to float32 where float16 cannot hold them. */
  readonly scheme?: string;
  /** Signal to quantization noise of the weight itself, in dB. */
  readonly sqnr?: number;
  /** Set where the plan could not be carried out. */
  readonly left?: string;
  /** Set where the weight is written in another way than the plan says, and why. */
  readonly instead?: { readonly lowering: LoweringId; readonly because: string };
}

export interface Solved {
  readonly matrices: Matrices;
  readonly results: readonly WeightResult[];
}

export interface ApplyOptions {
  readonly onProgress?: (done: number, total: number, tensor: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * Finds the codes of every weight that the plan quantizes to integers. Changes nothing.
 * @throws HalftoneError `invalid-file` for weights that hold NaN or infinities; the signal's reason when aborted.
 */
export async function solveWeights(planning: Planning, options: ApplyOptions = {}): Promise<Solved> {
  const matrices = new Map<string, QuantizedMatrix>();
  const results: WeightResult[] = [];
  const byName = new Map(planning.weights.map((weight) => [weight.value.name, weight]));
  const todo = planning.plan.weights.filter(
    ({ quantize }) => quantize && formatOf(quantize.scheme.split(':')[0]).kind === 'int',
  );
  for (const [index, plan] of todo.entries()) {
    options.signal?.throwIfAborted();
    options.onProgress?.(index, todo.length, plan.tensor);
    await new Promise((resolve) => setTimeout(resolve, 0));
    const weight = byName.get(plan.tensor);
    if (!weight) throw new HalftoneError('internal', `plan: expected weight "${plan.tensor}" in the model, got none`);
    const { matrix, sqnr } = quantizeWeight(weight, plan, planning.plan.recipe);
    const integer = plan.quantize?.lowering === 'qdq' || plan.quantize?.lowering === 'qoperator';
    matrices.set(plan.tensor, integer ? withBiasRoom(weight, matrix, planning) : matrix);
    results.push({ tensor: plan.tensor, scheme: formatScheme(matrix.scheme), sqnr });
  }
  return { matrices, results };
}

/**
 * Writes the quantized weights into the model that the planning was made for, which is edited.
 * Returns what became of weights that are stored as floats, or written in another way than planned.
 */
export function lowerModel(planning: Planning, matrices: Matrices): WeightResult[] {
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
    if (!matrix) {
      results.push(storeFloat(weight, parseScheme(quantize.scheme)));
      continue;
    }
    switch (quantize.lowering) {
      case 'matmul-nbits':
        model.useDomain('com.microsoft', 1);
        lowerMatmulNbits(weight, matrix, constants, planning.plan.recipe.accuracyLevel);
        break;
      case 'gather-block':
        model.useDomain('com.microsoft', 1);
        lowerGatherBlock(weight, matrix);
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

/** Why the two weights of an LSTM cannot be in one integer operator, or undefined when they can. */
function refusesPair(input: QuantizedMatrix, hidden: QuantizedMatrix): string | undefined {
  const [a, b] = [input, hidden].map(({ scheme }) => intFormatOf(scheme.format));
  if (a.bits === 8 && b.bits === 8 && a.signed === b.signed) return undefined;
  return `DynamicQuantizeLSTM expects both weights in one 8-bit format, got ${a.id} and ${b.id}`;
}

/** Runs the planned solver on one weight. */
export function quantizeWeight(
  weight: Weight,
  plan: WeightPlan,
  recipe: Pick<Recipe, 'reduceRange' | 'percentile'>,
): { matrix: QuantizedMatrix; sqnr: number } {
  const { quantize } = plan;
  if (!quantize) throw new HalftoneError('internal', `plan: expected "${plan.tensor}" to be quantized`);
  const { view } = weight.use;
  const values = toMatrix(weight.tensor.floats(), view);
  const integer = quantize.lowering === 'qdq' || quantize.lowering === 'qoperator' || quantize.lowering === 'dynamic';
  const options = {
    reduceRange: recipe.reduceRange && integer,
    positiveScale: integer,
    percentile: recipe.percentile,
  };
  try {
    const matrix =
      quantize.range === 'search'
        ? solverOf('search').solve(values, view.rows, view.columns, parseScheme(quantize.scheme), options)
        : solverOf('rtn').solve(values, view.rows, view.columns, parseScheme(quantize.scheme), {
            ...options,
            range: quantize.range,
          });
    return { matrix, sqnr: decibels(energyOf(values), matrixError(values, matrix)) };
  } catch (error) {
    if (error instanceof HalftoneError) {
      throw new HalftoneError(error.code, `weight "${plan.tensor}": ${error.message}`, {
        cause: error,
        fields: { tensor: plan.tensor },
      });
    }
    throw error;
  }
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
  const sqnr = decibels(energyOf(floats), reference.squaredError(floats, rounded));
  return { tensor: value.name, scheme: dtype, sqnr };
}

function energyOf(values: Float32Array): number {
  return reference.squaredError(values, new Float32Array(values.length));
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
