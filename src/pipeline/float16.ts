/** Turns a model to float16 where its calibrated values allow it, and says what stays float32 and what was lost. */
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { type KeptFloat32, lowerFloat16 } from '../lowerings/float16.ts';
import type { Weight } from '../lowerings/weight.ts';
import { floatToHalf } from '../tensor/half.ts';
import type { Statistics } from './calibrate.ts';
import { matches, type Recipe } from './recipe.ts';

/** So many nodes are named; the rest is counted. */
const namedNodes = 8;
/** Fewer weights than this that become 0 are not worth a word. */
const minFlushedShare = 0.01;

export interface Float16Input {
  /** `min-max` of the values of the main graph; without it overflow is not checked. */
  readonly statistics: Statistics | undefined;
  /** What the recipe leaves alone stays float32. */
  readonly recipe: Pick<Recipe, 'exclude' | 'opTypes'>;
  /** The weights as they were in float32. */
  readonly weights: readonly Weight[];
}

/**
 * Makes the model compute in float16; inputs and outputs stay float32. Edits the model.
 * @returns what a user should know of it, a sentence each.
 */
export function convertToFloat16(model: Model, { statistics, recipe, weights }: Float16Input): string[] {
  const reach = (value: Value) => {
    const state = value.graph === model.graph ? statistics?.get(value.name)?.get('min-max') : undefined;
    return state?.statistic === 'min-max' && state.count > 0
      ? Math.max(Math.abs(state.min), Math.abs(state.max))
      : undefined;
  };
  const keep = (node: Node) => {
    const names = [node.name, node.outputs[0]?.name ?? ''].filter(Boolean);
    if (recipe.exclude.some((pattern) => names.some((name) => matches(pattern, name)))) return 'it is excluded';
    if (recipe.opTypes.length > 0 && !recipe.opTypes.includes(node.op))
      return `${node.op} is not among the chosen operators`;
    return undefined;
  };
  const hasBodies = [...model.graphs()].length > 1;
  const { kept, raised } = lowerFloat16(model, { reach, keep });
  const notes = [...keptNotes(kept)];
  if (raised.length > 0) {
    const [first] = raised;
    notes.push(
      `${count(raised.length, 'constant')} below the smallest float16, such as "${first.name}" = ${first.value}, ` +
        'became that (6e-8) instead of 0.',
    );
  }
  notes.push(...flushedNotes(weights));
  if (!statistics) {
    notes.push(
      'Without samples it was not checked whether values overflow float16, which ends at 65504; give some with --calibrate DATA.',
    );
  } else if (hasBodies) {
    notes.push('Values inside the bodies of If, Loop and Scan were not checked for overflow.');
  }
  return notes;
}

function keptNotes(kept: readonly KeptFloat32[]): string[] {
  const notes: string[] = [];
  const byOperator = new Map<string, number>();
  for (const { node, because, byOperator: operator } of kept) {
    const reason = `${node.op}, ${because}`;
    if (operator) byOperator.set(reason, (byOperator.get(reason) ?? 0) + 1);
  }
  for (const [reason, number] of byOperator) notes.push(`${staying(number, 'node')}: ${reason}.`);
  const byNumbers = kept.filter(({ byOperator: operator }) => !operator);
  for (const { node, because } of byNumbers.slice(0, namedNodes)) {
    notes.push(`${node.label} stays float32: ${because}.`);
  }
  const rest = byNumbers.length - namedNodes;
  if (rest > 0) notes.push(`${staying(rest, 'more node')} for such reasons.`);
  return notes;
}

/** Numbers below half of float16's smallest become 0. */
function flushedNotes(weights: readonly Weight[]): string[] {
  let flushed = 0;
  let total = 0;
  let worst: { name: string; share: number } | undefined;
  for (const { value, tensor } of weights) {
    if (tensor.dtype !== 'float32') continue;
    let zeros = 0;
    for (const x of tensor.floats()) if (x !== 0 && (floatToHalf(x) & 0x7fff) === 0) zeros++;
    flushed += zeros;
    total += tensor.size;
    const share = zeros / tensor.size;
    if (!worst || share > worst.share) worst = { name: value.name, share };
  }
  if (!worst || flushed / total <= minFlushedShare) return [];
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  return [
    `${percent(flushed / total)} of the weights are too small for float16 and become 0, most in "${worst.name}" (${percent(worst.share)}).`,
  ];
}

function staying(number: number, noun: string): string {
  return `${count(number, noun)} ${number === 1 ? 'stays' : 'stay'} float32`;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
