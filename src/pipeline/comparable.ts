/** What has to hold before two models can be compared: the same inputs and outputs, and labels that are classes. */
import { HalftoneError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Session, ValueInfo } from '../runtime/runtime.ts';
import type { Tensor } from '../tensor/tensor.ts';

/**
 * Makes sure that both models take the same inputs and that the second has all outputs of the first.
 * @throws HalftoneError `usage` naming what differs.
 */
export function checkInterfaces(float: Session, quantized: Session): void {
  const advice = 'compare a model with one that was made from it';
  const list = (infos: readonly ValueInfo[]) => infos.map(({ name }) => `"${name}"`).join(', ') || 'none';
  const check = (what: string, wanted: readonly ValueInfo[], found: readonly ValueInfo[]) => {
    for (const info of wanted) {
      const other = found.find(({ name }) => name === info.name);
      const subject = `compare: ${what} "${info.name}"`;
      if (!other) throw usage(`${subject}: expected it in both models, got ${list(found)} in the other one; ${advice}`);
      if (what === 'input' && other.dtype !== info.dtype) {
        throw usage(
          `${subject}: expected the same type in both models, got ${info.dtype} and ${other.dtype}; ${advice}`,
        );
      }
      if (!shapesAgree(info.shape, other.shape)) {
        throw usage(
          `${subject}: expected the same shape in both models, got [${info.shape.join(',')}] and [${other.shape.join(',')}]; ${advice}`,
        );
      }
    }
  };
  check('input', float.inputs, quantized.inputs);
  check('input', quantized.inputs, float.inputs);
  check('output', float.outputs, quantized.outputs);
}

/** Dimensions without a fixed length agree with any. An empty shape may also mean that nothing is known. */
function shapesAgree(a: ValueInfo['shape'], b: ValueInfo['shape']): boolean {
  if (a.length === 0 || b.length === 0) return true;
  const isFixed = (dimension: number | string | undefined) => typeof dimension === 'number' && dimension >= 0;
  return (
    a.length === b.length && a.every((length, axis) => !isFixed(length) || !isFixed(b[axis]) || length === b[axis])
  );
}

/**
 * Makes sure that labels are classes of an output that has `classes` of them.
 * @throws HalftoneError `usage` naming the label.
 */
export function checkLabels(labels: readonly number[], classes: number, output: string): void {
  const wrong = labels.find((label) => label < 0 || label >= classes);
  if (wrong === undefined) return;
  throw usage(
    `labels: expected classes from 0 to ${classes - 1}, since output "${output}" has ${classes} of them, got ${wrong}; ` +
      'number the labels as the model does',
  );
}

/** True for a model over tokens. */
export function takesTokens(model: Model): boolean {
  return model.graph.inputs.some((input) => input.type?.dtype === 'int64' || input.type?.dtype === 'int32');
}

/**
 * How many classes each row of an output scores: [N, classes] of a classifier, [N, T, classes] of a model over tokens.
 * Undefined for other outputs.
 */
export function classesOf(scores: Tensor | undefined, tokens: boolean): number | undefined {
  const rank = scores?.shape.length ?? 0;
  const classes = scores?.shape[rank - 1] ?? 0;
  return scores?.dtype === 'float32' && classes > 1 && (rank === 2 || (rank === 3 && tokens)) ? classes : undefined;
}

function usage(message: string): HalftoneError {
  return new HalftoneError('usage', message);
}
