/** Decides everything before anything is done. The plan is plain data: it can be printed, saved, compared. */

import { functionWeights } from '../files/onnx/functions.ts';
import { type FormatId, formatOf, intFormatOf } from '../formats/index.ts';
import { formatScheme, parseScheme, type Scheme } from '../formats/scheme.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { bestKernel } from '../kernel/index.ts';
import { dynamic } from '../lowerings/dynamic.ts';
import { foldAtLoad, foldAtLoadNodeBytes } from '../lowerings/fold-at-load.ts';
import { gatherBlock } from '../lowerings/gather-block.ts';
import type { LoweringId } from '../lowerings/index.ts';
import { chooseIntegerNodes, type IntegerNodes } from '../lowerings/integer-nodes.ts';
import { refusesViews } from '../lowerings/linear.ts';
import { matmulBnb4 } from '../lowerings/matmul-bnb4.ts';
import { matmulNbits } from '../lowerings/matmul-nbits.ts';
import { type ActivationParameters, activationFormatOf, activationOpset, qdq, standsAlone } from '../lowerings/qdq.ts';
import { findWeights, type Weight, type WeightKind, type WeightLowering } from '../lowerings/weight.ts';
import { affineParameters, type Interval, type RangeId, rangeOf } from '../ranges/index.ts';
import type { StatisticState } from '../statistics/index.ts';
import { groupStatistic, type Statistics } from './calibrate.ts';
import { findPositions } from './positions.ts';
import { hasStaticActivations, matches, type Recipe, type Rule, type WeightRange } from './recipe.ts';
import { storageOf } from './storage.ts';

export interface WeightPlan {
  readonly tensor: string;
  readonly shape: readonly number[];
  readonly kind: WeightKind;
  /** Readers as `Conv "name"`. */
  readonly users: readonly string[];
  readonly floatBytes: number;
  /** Undefined where the weight stays as it is. */
  readonly quantize?: {
    readonly scheme: string;
    readonly range: WeightRange;
    readonly lowering: LoweringId;
  };
  /** Bytes of its initializers in the result, without nodes and names. */
  readonly predictedBytes: number;
  readonly because: string;
}

export interface ActivationPlan {
  readonly tensor: string;
  readonly format: FormatId;
  readonly symmetric: boolean;
  readonly range: RangeId;
  /** Tensors of one group share scale and zero point. */
  readonly group: string;
  /** Known after calibration. */
  readonly interval?: { readonly min: number; readonly max: number };
  readonly scale?: number;
  readonly zeroPoint?: number;
}

export interface Plan {
  readonly version: 1;
  readonly recipe: Recipe;
  /** The opset that the result needs; the model is raised to it. */
  readonly opset: number;
  readonly weights: readonly WeightPlan[];
  readonly activations: readonly ActivationPlan[];
  /** Nodes that run in integers, by the name of their first output. */
  readonly integerNodes: readonly string[];
  /** Bytes of all float weights, and of what they become. */
  readonly floatBytes: number;
  readonly predictedBytes: number;
  /** What a user should know before going on. */
  readonly notes: readonly string[];
}

/** The plan together with the objects of the model that it was made for. */
export interface Planning {
  readonly model: Model;
  readonly plan: Plan;
  readonly weights: readonly Weight[];
  readonly integer: IntegerNodes | undefined;
  readonly parameters: ReadonlyMap<Value, ActivationParameters>;
}

/** Weights below this gain nothing: names and nodes of a packed weight take about as much. */
const minWeightBytes = 2048;

/** Depthwise, first and last layers keep 8 bits when the others get fewer, if they hold at most this share of weights. */
const maxKeptShare = 0.5;

/**
 * Makes the plan. Pure: the same model, recipe and statistics give the same plan.
 * @param refined ranges of activations that replace those of the recipe's method, by group
 */
export function makePlan(
  model: Model,
  recipe: Recipe,
  statistics?: Statistics,
  refined: ReadonlyMap<string, Interval> = new Map(),
): Planning {
  const weights = findWeights(model);
  const positions = findPositions(model.graph, weights);
  const notes: string[] = [];
  const isStatic = hasStaticActivations(recipe);
  const rules = [...defaultRules(recipe, weights, positions, notes), ...recipe.rules];
  const wish = (weight: Weight) => wishFor(weight, recipe, rules, positions);

  const wishes = new Map(weights.map((weight) => [weight.value, wish(weight)]));
  const byNode = new Map<Node, Weight>();
  for (const weight of weights)
    for (const use of weight.uses)
      if (use.kind !== 'other' && use.node.is('Conv', 'Gemm', 'MatMul')) byNode.set(use.node, weight);

  let integer: IntegerNodes | undefined;
  if (isStatic) {
    const isAllowed = (node: Node) =>
      node.graph === model.graph &&
      !recipe.exclude.some((pattern) => namesOf(node).some((name) => matches(pattern, name))) &&
      (recipe.opTypes.length === 0 || recipe.opTypes.includes(node.op));
    integer = chooseIntegerNodes(model.graph, (node) => {
      if (!isAllowed(node)) return false;
      const weight = byNode.get(node);
      if (!weight) return true;
      const { use } = wishes.get(weight.value) ?? {};
      if (!use?.scheme) return false;
      // Beside pairs that stand alone, weights of any scheme are folded when the file is loaded.
      if (standsAlone(recipe.activations)) return ['qdq', 'fold-at-load', undefined].includes(use.lowering);
      if (use.lowering && use.lowering !== 'qdq' && use.lowering !== 'qoperator') return false;
      return (
        qdq.refuses(weight, use.scheme) === undefined &&
        refusesViews(weight) === undefined &&
        weight.uses.every((other) => other.kind === weight.use.kind && isAllowed(other.node))
      );
    });
    if (recipe.activations === 'int8' && recipe.lowering !== 'qoperator' && integer.units.size > 0) {
      notes.push(
        'ONNX Runtime on x86 turns some int8 activations into uint8 and then runs layers beside them in float; ' +
          'set its session option session.qdqisint8allowed to 1, or use uint8 activations or --lowering qoperator.',
      );
    }
    const note = simulationNote(recipe.activations);
    if (note && integer.units.size > 0) notes.push(note);
    if (integer.units.size === 0 && [...wishes.values()].every(({ use }) => use?.lowering === undefined)) {
      notes.push(
        'No operator of this model runs in integer arithmetic in ONNX Runtime; only its weights are quantized.',
      );
    }
  }

  const activations = integer ? planActivations(integer, recipe, statistics, refined) : [];
  const weightPlans = weights.map((weight) =>
    planWeight(weight, wishes.get(weight.value) ?? { because: '' }, recipe, integer),
  );
  let opset = model.opset;
  for (const plan of weightPlans) {
    if (plan.quantize)
      opset = Math.max(opset, requiredOpset(plan.quantize.lowering, parseScheme(plan.quantize.scheme)));
  }
  if (integer && integer.units.size > 0 && isStatic)
    opset = Math.max(opset, activationOpset(recipe.activations as FormatId));

  const parameters = new Map<Value, ActivationParameters>();
  if (integer) {
    [...integer.activations.keys()].forEach((value, index) => {
      const { format, scale, zeroPoint } = activations[index];
      if (scale !== undefined && zeroPoint !== undefined) parameters.set(value, { format, scale, zeroPoint });
    });
  }
  const sum = (key: 'floatBytes' | 'predictedBytes') => weightPlans.reduce((total, plan) => total + plan[key], 0);
  const plan: Plan = {
    version: 1,
    recipe,
    opset,
    weights: [...weightPlans, ...functionPlans(model, notes)],
    activations,
    integerNodes: integer ? [...integer.units.keys()].map((node) => node.output().name) : [],
    floatBytes: sum('floatBytes'),
    predictedBytes: sum('predictedBytes'),
    notes,
  };
  return { model, plan, weights, integer, parameters };
}

/** Weights inside local functions, which are carried through untouched. */
function functionPlans(model: Model, notes: string[]): WeightPlan[] {
  const found = functionWeights(model);
  if (found.length > 0) {
    notes.push(`${found.length} weights inside local functions stay float: functions are carried through untouched.`);
  }
  return found.map(({ function: name, tensor, shape, bytes }) => ({
    tensor: `${name}/${tensor}`,
    shape,
    kind: 'other',
    users: [`function "${name}"`],
    floatBytes: bytes,
    predictedBytes: bytes,
    because: 'inside a local function, which is carried through untouched',
  }));
}

interface Wish {
  readonly use?: { readonly scheme: Scheme; readonly range: WeightRange; readonly lowering?: LoweringId };
  readonly because: string;
}

/**
 * The smallest layers get smaller blocks until they hold this share of the weights: often the first ones, whose errors all
 * others pass on, and there it takes little room.
 */
const maxFineShare = 1 / 16;

/** The smallest of these get 8 bits: so small that it takes no room to speak of. */
const maxWideShare = 1 / 64;

/** Where a scheme has no blocks, the smallest get 8 bits up to this share: there is nothing in between. */
const maxWideShareWithoutBlocks = 1 / 8;

/** Widths under 8 leave the layers that hurt most at 8 bits: a few per cent of the bytes, most of the damage. */
function defaultRules(
  recipe: Recipe,
  weights: readonly Weight[],
  positions: ReturnType<typeof findPositions>,
  notes: string[],
): Rule[] {
  if (recipe.uniform || recipe.weights === 'float') return [];
  const scheme = parseScheme(recipe.weights);
  if (formatOf(scheme.format).bits >= 8) return [];
  const layers = weights.filter(({ use }) => use.kind !== 'other');
  const total = layers.reduce((sum, weight) => sum + weight.tensor.byteLength, 0);
  const isEmbedding = ({ use }: Weight) => use.kind === 'embedding';
  const { first, last } = positions;
  const groups: readonly [because: string, includes: (weight: Weight) => boolean][] = [
    ['a depthwise kernel bears no low width', ({ use }) => use.kind === 'depthwise-convolution'],
    ['the first layer', (weight) => first.has(weight.use.node) && !isEmbedding(weight)],
    ['the last layer', ({ use }) => last.has(use.node)],
    ['the first layer', (weight) => first.has(weight.use.node) && isEmbedding(weight)],
  ];
  const kept = new Map<Weight, string>();
  let bytes = 0;
  let tooLarge = 0;
  for (const [because, includes] of groups) {
    const group = layers.filter((weight) => includes(weight) && !kept.has(weight));
    const size = group.reduce((sum, weight) => sum + weight.tensor.byteLength, 0);
    if (bytes + size > maxKeptShare * total) {
      tooLarge += group.length;
      continue;
    }
    bytes += size;
    for (const weight of group) kept.set(weight, because);
  }
  if (tooLarge > 0) {
    notes.push(
      `${tooLarge} first, last or depthwise layers get ${recipe.weights} like the rest, because they hold most of the weights.`,
    );
  }
  const counted = [...kept.keys()].filter((weight) => !isTooSmall(weight, recipe)).length;
  if (counted > 0) {
    notes.push(
      `${counted} of ${layers.length} layers (first, last, depthwise; ${((bytes / total) * 100).toFixed(1)} % of the weights) ` +
        'keep 8 bits, because low widths do most damage there; --uniform turns that off.',
    );
  }
  const keeping = [...kept].map(([weight, because]) => ({
    match: { tensor: weight.value.name },
    use: { weights: 'int8' },
    because,
  }));
  return [
    ...keeping,
    ...smallLayerRules(
      recipe,
      scheme,
      layers.filter((weight) => !kept.has(weight)),
      total,
      notes,
    ),
  ];
}

/** 8 bits or blocks of 8 columns for the smallest layers, 16 where kernels of ONNX Runtime take no less. */
function smallLayerRules(
  recipe: Recipe,
  scheme: Scheme,
  layers: readonly Weight[],
  total: number,
  notes: string[],
): Rule[] {
  const { granularity, scaleType } = scheme;
  // Scales of 8-bit floats belong to formats whose block size is fixed.
  if (scaleType === 'float8e8m0' || scaleType === 'float8e4m3fn') return [];
  const hasBlocks = granularity.kind === 'block';
  const rules: Rule[] = [];
  let bytes = 0;
  for (const size of [...new Set(layers.map(({ tensor }) => tensor.byteLength))].sort((a, b) => a - b)) {
    const alike = layers.filter(({ tensor }) => tensor.byteLength === size);
    bytes += alike.length * size;
    if (bytes > (hasBlocks ? maxFineShare : maxWideShareWithoutBlocks) * total) break;
    for (const weight of alike) {
      const isConvolution = weight.use.kind.endsWith('convolution');
      const size = isConvolution ? 8 : 16;
      const isWide = !hasBlocks || bytes <= maxWideShare * total;
      if (isTooSmall(weight, recipe) || (!isWide && size >= granularity.size)) continue;
      const finer = formatScheme({ ...scheme, granularity: { kind: 'block', size } });
      // Kernels that multiply blocks take 8 bits as well, but none without blocks.
      const wide = hasBlocks && !isConvolution ? `int8:g${Math.max(16, granularity.size)}` : 'int8';
      const weights = isWide ? wide : finer;
      rules.push({ match: { tensor: weight.value.name }, use: { weights }, because: 'a small layer' });
    }
  }
  const wide = rules.filter(({ use }) => use.weights?.startsWith('int8')).length;
  const kinds = [
    wide > 0 ? `${wide} get 8 bits` : '',
    rules.length > wide ? `${rules.length - wide} smaller blocks` : '',
  ];
  if (rules.length > 0) {
    notes.push(
      `Of ${layers.length} layers the smallest are so small that more bits take little room: ` +
        `${kinds.filter(Boolean).join(', ')}; --uniform turns that off.`,
    );
  }
  return rules;
}

/** What the settings and the last matching rule ask for this weight. */
function wishFor(
  weight: Weight,
  recipe: Recipe,
  rules: readonly Rule[],
  positions: ReturnType<typeof findPositions>,
): Wish {
  const { use, value } = weight;
  const { node } = use;
  const names = [...weight.uses.flatMap((other) => namesOf(other.node)), value.name];
  if (use.kind === 'other') return { because: `not a layer's weight (${node.op})` };
  if (recipe.exclude.some((pattern) => names.some((name) => matches(pattern, name)))) return { because: 'excluded' };
  if (recipe.opTypes.length > 0 && !recipe.opTypes.includes(node.op)) {
    return { because: `${node.op} is not among the chosen operators` };
  }
  let scheme = recipe.weights;
  let range = recipe.weightRange;
  let lowering = recipe.lowering === 'auto' ? undefined : recipe.lowering;
  let because = 'default';
  for (const [index, rule] of rules.entries()) {
    if (!ruleMatches(rule, weight, positions)) continue;
    scheme = rule.use.weights ?? scheme;
    range = rule.use.range ?? range;
    lowering = rule.use.lowering ?? lowering;
    because = rule.because ?? `rule ${index + 1}`;
  }
  if (scheme === 'float') return { because: because === 'default' ? 'weights stay float' : because };
  if (isTooSmall(weight, recipe)) {
    return { because: `only ${weight.tensor.byteLength} bytes: packing would not make it smaller` };
  }
  const parsed = parseScheme(scheme);
  return { use: { scheme: parsed, range, ...(lowering ? { lowering } : {}) }, because };
}

/** True for weights whose nodes and names would take what packing saves; integer arithmetic wants them all the same. */
function isTooSmall(weight: Weight, recipe: Recipe): boolean {
  const wanted = recipe.activations === 'dynamic' || isStaticKind(recipe, weight);
  return !wanted && weight.tensor.byteLength < minWeightBytes;
}

function isStaticKind(recipe: Recipe, weight: Weight): boolean {
  if (['none', 'dynamic', 'float16'].includes(recipe.activations)) return false;
  return ['convolution', 'depthwise-convolution', 'matrix'].includes(weight.use.kind);
}

function ruleMatches(rule: Rule, weight: Weight, positions: ReturnType<typeof findPositions>): boolean {
  const { op, node: nodePattern, tensor, kind, position } = rule.match;
  const { node } = weight.use;
  if (op !== undefined && !(typeof op === 'string' ? [op] : op).includes(node.op)) return false;
  if (nodePattern !== undefined && !namesOf(node).some((name) => matches(nodePattern, name))) return false;
  if (tensor !== undefined && !matches(tensor, weight.value.name)) return false;
  if (kind !== undefined && weight.use.kind !== kind) return false;
  if (position === 'first' && !positions.first.has(node)) return false;
  if (position === 'last' && !positions.last.has(node)) return false;
  return true;
}

function namesOf(node: Node): string[] {
  return [node.name, node.outputs[0]?.name ?? ''].filter(Boolean);
}

function planWeight(weight: Weight, wish: Wish, recipe: Recipe, integer: IntegerNodes | undefined): WeightPlan {
  const { value, tensor, use, uses } = weight;
  const base = {
    tensor: value.name,
    shape: tensor.shape,
    kind: use.kind,
    users: uses.map((other) => other.node.label),
    floatBytes: tensor.byteLength,
  };
  if (!wish.use) {
    const half = recipe.activations === 'float16' && wish.because !== 'excluded' && tensor.dtype === 'float32';
    if (!half) return { ...base, predictedBytes: base.floatBytes, because: wish.because };
    return { ...base, predictedBytes: tensor.size * 2, because: `${wish.because}; float16 like what it is used with` };
  }
  if (formatOf(wish.use.scheme.format).kind === 'float') {
    const quantize = { scheme: wish.use.scheme.format, range: wish.use.range, lowering: 'fold-at-load' as const };
    return { ...base, quantize, predictedBytes: tensor.size * 2, because: wish.because };
  }
  const unfit = unfitReason(weight, recipe);
  if (unfit) return { ...base, predictedBytes: base.floatBytes, because: unfit };
  const { lowering, scheme, reason } = chooseLowering(weight, wish.use, recipe, integer);
  const { bytes: predictedBytes } = storageOf(weight, scheme, lowering);
  const because = reason ? `${wish.because}; ${reason}` : wish.because;
  if (lowering === 'fold-at-load' && predictedBytes + foldAtLoadNodeBytes(scheme) >= base.floatBytes) {
    return { ...base, predictedBytes: base.floatBytes, because: `${formatScheme(scheme)} would not make it smaller` };
  }
  const quantize = { scheme: formatScheme(scheme), range: wish.use.range, lowering };
  return { ...base, quantize, predictedBytes, because };
}

/** Why no scheme suits this weight, whatever was asked for. */
function unfitReason({ value, tensor }: Weight, recipe: Recipe): string | undefined {
  if (tensor.size === 0) return 'it is empty';
  if (value.isGraphOutput) return 'it is an output of the model';
  // What is not in memory is looked at when it is quantized, unless other layers depend on the answer.
  if (tensor.source && !hasStaticActivations(recipe)) return undefined;
  const { nan, positiveInfinity, negativeInfinity } = bestKernel().extent(tensor.floats());
  const bad = nan + positiveInfinity + negativeInfinity;
  return bad > 0 ? `${bad} of its ${tensor.size} numbers are NaN or infinite` : undefined;
}

/** The lowering asked for or the best that takes this weight; the reason where it is not the one asked for. */
function chooseLowering(
  weight: Weight,
  use: NonNullable<Wish['use']>,
  recipe: Recipe,
  integer: IntegerNodes | undefined,
): { lowering: LoweringId; scheme: Scheme; reason?: string } {
  const { scheme } = use;
  const alone = integer && standsAlone(recipe.activations);
  if (integer && !alone && weight.uses.every((other) => integer.units.has(other.node))) {
    return { lowering: recipe.lowering === 'qoperator' ? 'qoperator' : 'qdq', scheme };
  }
  const entries: Record<string, WeightLowering> = {
    'matmul-nbits': matmulNbits,
    'matmul-bnb4': matmulBnb4,
    'gather-block': gatherBlock,
    dynamic,
  };
  const wanted: LoweringId[] = [];
  if (use.lowering) wanted.push(use.lowering);
  else if (alone && weight.uses.some((other) => integer.units.has(other.node))) wanted.push('fold-at-load');
  else if (recipe.activations === 'dynamic') wanted.push('dynamic');
  else wanted.push('matmul-nbits', 'matmul-bnb4', 'gather-block');
  let reason: string | undefined;
  for (const id of wanted) {
    if (id === 'fold-at-load') return { lowering: id, scheme };
    const entry = entries[id];
    const refusal = entry ? entry.refuses(weight, scheme) : 'it does not run in integers here';
    if (refusal === undefined) return { lowering: id, scheme };
    if (use.lowering || recipe.activations === 'dynamic') reason = `not ${id}: ${refusal}`;
  }
  return { lowering: 'fold-at-load', scheme, ...(reason ? { reason } : {}) };
}

function requiredOpset(lowering: LoweringId, scheme: Scheme): number {
  const entry: WeightLowering | undefined = [qdq, dynamic, matmulNbits, matmulBnb4, gatherBlock, foldAtLoad].find(
    ({ id }) => id === (lowering === 'qoperator' ? 'qdq' : lowering),
  );
  return entry?.requiredOpset(scheme) ?? 0;
}

function planActivations(
  integer: IntegerNodes,
  recipe: Recipe,
  statistics: Statistics | undefined,
  refined: ReadonlyMap<string, Interval>,
): ActivationPlan[] {
  const format = activationFormatOf(recipe.activations);
  const isFloat = format.kind === 'levels';
  const range = rangeOf(recipe.range);
  const states = new Map<string, StatisticState | undefined>();
  const clips = clipsOf(integer);
  const plans: ActivationPlan[] = [];
  for (const [value, group] of integer.activations) {
    const members = [...integer.activations].filter(([, other]) => other === group).map(([member]) => member);
    if (statistics && !states.has(group)) {
      states.set(
        group,
        groupStatistic(
          statistics,
          members.map((member) => member.name),
          range.needs,
        ),
      );
    }
    const state = states.get(group);
    const base = { tensor: value.name, format: format.id as FormatId, range: recipe.range, group };
    // A result that a Relu or Clip was absorbed into needs its lowest code to stand for the lower bound.
    const clipped = members.some((member) => clips.has(member));
    const symmetric = isFloat || (recipe.symmetricActivations && !clipped);
    if (!state) {
      plans.push({ ...base, symmetric });
      continue;
    }
    // Floats get the interval that integers of as many bits would.
    const codes = isFloat ? intFormatOf('int8') : format;
    const interval =
      refined.get(group) ?? range.choose(state, { format: codes, symmetric, percentile: recipe.percentile });
    const { scale, zeroPoint } = affineParameters(interval, format, symmetric, { reduceRange: false });
    plans.push({ ...base, symmetric, interval, scale, zeroPoint });
  }
  return plans;
}

/** What to expect of activations that ONNX Runtime has no arithmetic for. */
function simulationNote(activations: string): string | undefined {
  if (activations === 'uint8' || activations === 'int8') return undefined;
  const duration = activationFormatOf(activations).kind === 'int' ? 'a few' : 'about ten';
  return (
    `ONNX Runtime's CPU and WebAssembly kernels have no arithmetic for ${activations}: this simulates it in float, ` +
    `and rounding a million activations takes ${duration} milliseconds.`
  );
}

/** Results whose Relu or Clip is left to saturation. */
function clipsOf(integer: IntegerNodes): Set<Value> {
  const clips = new Set<Value>();
  for (const { absorbed } of integer.units.values()) if (absorbed) clips.add(absorbed.output());
  return clips;
}
