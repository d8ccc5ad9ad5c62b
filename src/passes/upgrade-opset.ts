/** Raises a model to a later version of the ONNX operator set: operators whose form changed are rewritten. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Node } from '../graph/node.ts';
import { allowConstants } from './lift-initializers.ts';
import type { OpsetChange } from './opset/change.ts';
import { opsetChanges } from './opset/changes.ts';
import type { Pass } from './pass.ts';

/** The versions whose changes of form are known. */
const knownOpsets = { min: 7, max: 26 } as const;

/** Operator set → the IR version it was released with (onnx/helper.py, VERSION_TABLE, onnx 1.23). */
const irVersions: readonly (readonly [opset: number, ir: number])[] = [
  [9, 4],
  [10, 5],
  [11, 6],
  [12, 7],
  [15, 8],
  [19, 9],
  [21, 10],
  [23, 11],
  [24, 12],
  [25, 13],
];

/** The IR version that a model of this operator set needs at least. */
export function irVersionFor(opset: number): number {
  return irVersions.findLast(([first]) => opset >= first)?.[1] ?? 3;
}

const changesOf = new Map<string, OpsetChange>();
for (const change of opsetChanges) for (const op of change.ops) changesOf.set(`${op}@${change.at}`, change);

/** The changes that concern a node on its way from one version to another, in order; a step may rename the operator. */
function* stepsOf(node: Node, from: number, target: number): Generator<OpsetChange> {
  if (node.domain !== '') return;
  for (let version = from + 1; version <= target; version++) {
    const change = changesOf.get(`${node.op}@${version}`);
    if (change) yield change;
  }
}

/**
 * Raises the model's ONNX operator set to `target`, in place; a model that has it or a later one stays as it is. The
 * outputs stay what they were. Other domains are not touched. Whether a runtime implements the later versions is for the
 * caller to know: ONNX Runtime 1.30 on the CPU lacks opset 22's RoiAlign, MaxRoiPool, GlobalLpPool, Multinomial and the
 * Random operators, of about a hundred tried.
 * @returns whether anything changed.
 * @throws HalftoneError `usage` for a target that is not known; `unsupported`, before anything is changed, for an
 *   operator that has no counterpart there and for models with functions of their own: ONNX Runtime reads those in the
 *   model's version, whatever version they import.
 */
export function upgradeOpset(model: Model, target: number): boolean {
  const from = model.opset;
  if (!Number.isInteger(target) || target < knownOpsets.min || target > knownOpsets.max) {
    throw new HalftoneError(
      'usage',
      `opset: expected a version from ${knownOpsets.min} to ${knownOpsets.max}, got ${target}`,
    );
  }
  if (target <= from) return false;
  refuse(model, from, target);
  for (const node of model.nodes()) for (const change of stepsOf(node, from, target)) change.apply(node, target);
  for (const graph of model.graphs()) graph.removeUnusedInitializers();
  model.opsets.set('', target);
  model.irVersion = Math.max(model.irVersion, irVersionFor(target));
  allowConstants(model);
  return true;
}

function refuse(model: Model, from: number, target: number): void {
  const { functions = [] } = (model.carried ?? {}) as { functions?: readonly { name: string }[] };
  if (functions.length > 0) {
    throw new HalftoneError(
      'unsupported',
      `opset ${target}: expected a model without functions of its own, got "${functions[0].name}"; inline the functions first`,
    );
  }
  for (const node of model.nodes()) {
    for (const change of stepsOf(node, from, target)) {
      const reason = change.refuse?.(node, target);
      if (reason === undefined) continue;
      throw new HalftoneError(
        'unsupported',
        `${node.label}: expected a form that opset ${change.at} has too, got ${reason}; keep opset ${from} or change the model`,
        { fields: { node: node.name, opset: change.at } },
      );
    }
  }
}

export const upgradeOpsetPass = {
  id: 'upgrade-opset',
  summary: 'raise the ONNX operator set to the version asked for',
  run: (model, context) => (context.opset === undefined ? false : upgradeOpset(model, context.opset)),
} as const satisfies Pass;
