/**
 * Every change of form between opset 7 and 26 that an upgrade has to make. The list follows the differences between
 * the operators' versions in onnx/docs/Changelog.md (onnx 1.23). What only gained types, or an attribute or input whose
 * default is the old behaviour, needs nothing and is not listed.
 */
import type { Node } from '../../graph/node.ts';
import { Tensor } from '../../tensor/tensor.ts';
import { computedFor, constantFor, elementTypeOf, intsToInput, type OpsetChange, scalar } from './change.ts';
import { resizeChanges } from './resize.ts';
import { softmaxChanges } from './softmax.ts';

function isRead(node: Node, index: number): boolean {
  const output = node.outputs[index];
  return output !== undefined && (output.users.size > 0 || output.isGraphOutput);
}

function readExtraOutput(node: Node): string | undefined {
  return node.outputs.some((_, index) => index > 0 && isRead(node, index)) ? 'its further outputs in use' : undefined;
}

/** Moves float attributes to scalar inputs of the type of the data. */
function floatsToInputs(node: Node, attributes: Readonly<Record<string, number>>): void {
  for (const [attribute, index] of Object.entries(attributes)) {
    const value = node.float(attribute);
    node.set(attribute, undefined);
    const dtype = elementTypeOf(node.input(0)) ?? elementTypeOf(node.output());
    if (value !== undefined && dtype) node.setInput(index, constantFor(node, attribute, scalar(dtype, value)));
  }
}

function needsType(node: Node, attributes: readonly string[]): string | undefined {
  if (attributes.every((attribute) => node.float(attribute) === undefined)) return undefined;
  return elementTypeOf(node.input(0)) || elementTypeOf(node.output())
    ? undefined
    : `no declared element type of "${node.input(0).name}"`;
}

const reductions = [
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSum',
  'ReduceLogSumExp',
  'ReduceMax',
  'ReduceMean',
  'ReduceMin',
  'ReduceProd',
  'ReduceSumSquare',
];

const gridModes: Readonly<Record<string, string>> = { bilinear: 'linear', bicubic: 'cubic' };

/** One scale and bias a group become one a channel: each is repeated for the channels of its group. */
function repeatPerChannel(node: Node): void {
  const groups = node.int('num_groups', 1);
  const channels = node.input(0).type?.shape?.[1];
  const each =
    typeof channels === 'number'
      ? constantFor(node, 'repeats', Tensor.int64([1], [channels / groups]))
      : computedFor(node, 'Div', [
          computedFor(node, 'Shape', [node.input(0)], { start: 1, end: 2 }),
          constantFor(node, 'groups', Tensor.int64([1], [groups])),
        ]);
  const grid = computedFor(node, 'Concat', [constantFor(node, 'rows', Tensor.int64([1], [groups])), each], { axis: 0 });
  for (const index of [1, 2]) {
    const column = computedFor(node, 'Unsqueeze', [
      node.input(index),
      constantFor(node, 'axes', Tensor.int64([1], [1])),
    ]);
    const repeated = computedFor(node, 'Expand', [column, grid]);
    node.setInput(index, computedFor(node, 'Reshape', [repeated, constantFor(node, 'flat', Tensor.int64([1], [-1]))]));
  }
}

export const opsetChanges: readonly OpsetChange[] = [
  ...resizeChanges,
  ...softmaxChanges,
  {
    ops: ['BatchNormalization'],
    at: 9,
    refuse: (node) => (node.int('spatial', 1) === 1 ? undefined : 'spatial 0'),
    apply: (node) => node.set('spatial', undefined),
  },
  {
    ops: ['BatchNormalization'],
    at: 14,
    refuse: readExtraOutput,
    apply: (node) => node.truncateOutputs(1),
  },
  {
    ops: ['Clip'],
    at: 11,
    refuse: (node) => needsType(node, ['min', 'max']),
    apply: (node) => floatsToInputs(node, { min: 1, max: 2 }),
  },
  {
    ops: ['DFT'],
    at: 20,
    apply(node) {
      const axis = constantFor(node, 'axis', Tensor.int64([], [node.int('axis', 1)]));
      node.set('axis', undefined);
      node.setInput(2, axis);
    },
  },
  {
    ops: ['Dropout'],
    at: 10,
    // The mask became boolean.
    refuse: readExtraOutput,
    apply: (node) => node.truncateOutputs(1),
  },
  {
    ops: ['Dropout'],
    at: 12,
    refuse: readExtraOutput,
    apply(node) {
      node.truncateOutputs(1);
      // Without training_mode the operator copies its input, whatever the ratio.
      node.set('ratio', undefined);
    },
  },
  {
    ops: ['GridSample'],
    at: 20,
    apply(node) {
      const mode = node.string('mode');
      if (mode !== undefined) node.set('mode', gridModes[mode] ?? mode);
    },
  },
  { ops: ['GroupNormalization'], at: 21, apply: repeatPerChannel },
  {
    ops: ['Pad'],
    at: 11,
    refuse: (node) => needsType(node, ['value']),
    apply(node) {
      intsToInput(node, 'pads', 1);
      if (node.float('value') === 0) node.set('value', undefined);
      floatsToInputs(node, { value: 2 });
    },
  },
  { ops: ['ReduceSum'], at: 13, apply: (node) => intsToInput(node, 'axes', 1) },
  { ops: reductions, at: 18, apply: (node) => intsToInput(node, 'axes', 1) },
  {
    ops: ['RoiAlign'],
    at: 16,
    // Before there was a choice, samples were not shifted by half a pixel (RoiAlign-16, coordinate_transformation_mode).
    apply: (node) => node.set('coordinate_transformation_mode', 'output_half_pixel'),
  },
  {
    ops: ['Scan'],
    at: 9,
    refuse: () => 'a batch axis (Scan-8)',
    apply() {},
  },
  {
    ops: ['Scatter'],
    at: 11,
    apply(node) {
      node.op = 'ScatterElements';
    },
  },
  {
    ops: ['Slice'],
    at: 10,
    apply(node) {
      intsToInput(node, 'starts', 1);
      intsToInput(node, 'ends', 2);
      intsToInput(node, 'axes', 3);
    },
  },
  { ops: ['Split'], at: 13, apply: (node) => intsToInput(node, 'split', 1) },
  {
    ops: ['Split'],
    at: 18,
    apply(node) {
      if (!node.inputs[1]) node.set('num_outputs', node.outputs.length);
    },
  },
  { ops: ['Squeeze', 'Unsqueeze'], at: 13, apply: (node) => intsToInput(node, 'axes', 1) },
  {
    ops: ['TopK'],
    at: 10,
    apply(node) {
      const k = constantFor(node, 'k', Tensor.int64([1], [node.int('k', 1)]));
      node.set('k', undefined);
      node.setInput(1, k);
    },
  },
];
