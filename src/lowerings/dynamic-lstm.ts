/** LSTM with 8-bit weights and activations quantized at run time: com.microsoft.DynamicQuantizeLSTM. */
import { HalftoneError } from '../base/errors.ts';
import { intFormatOf } from '../formats/index.ts';
import type { QuantizedMatrix } from '../formats/quantized.ts';
import type { Scheme } from '../formats/scheme.ts';
import type { Node } from '../graph/node.ts';
import type { Value } from '../graph/value.ts';
import { bytesOf, type Shape, Tensor } from '../tensor/tensor.ts';
import { floatValue, plainScaleType } from './codes.ts';

/** Why a recurrent node cannot become DynamicQuantizeLSTM, or undefined when it can. */
export function refusesDynamicLstm(node: Node, scheme: Scheme): string | undefined {
  if (!node.is('LSTM')) return `expected an LSTM, got ${node.label}: there is no integer operator for it`;
  if (node.int('layout', 0) !== 0) return `expected ${node.label} with layout = 0, got ${node.int('layout', 0)}`;
  // onnxruntime 1.30, dynamic_quantize_lstm.cc: zero points of channels "must be zero" or "must be constant".
  if (scheme.granularity.kind === 'channel' && !scheme.symmetric) {
    return 'DynamicQuantizeLSTM expects one zero point: a symmetric scheme, or one scale per tensor';
  }
  return undefined;
}

/**
 * Replaces an LSTM. `input` and `recurrence` are the quantized W and R, rows [directions·4·hidden], of one format; the
 * operator takes them as [directions, columns, 4·hidden] with scales [directions] or [directions, 4·hidden]. Biases,
 * states, lengths, peepholes, attributes and all results stay what they are.
 * @throws HalftoneError `internal` for a node that `refusesDynamicLstm` refuses and for matrices of two formats.
 */
export function lowerDynamicLstm(node: Node, input: QuantizedMatrix, recurrence: QuantizedMatrix): void {
  const reason = refusesDynamicLstm(node, input.scheme) ?? refusesDynamicLstm(node, recurrence.scheme);
  if (reason) throw new HalftoneError('internal', `dynamic: ${reason}`);
  const formats = [input, recurrence].map((matrix) => intFormatOf(matrix.scheme.format));
  if (formats[0].signed !== formats[1].signed || formats.some((format) => format.bits !== 8)) {
    throw new HalftoneError(
      'internal',
      `${node.label}: expected both weights in the same 8-bit format, got ${formats.map(({ id }) => id).join(' and ')}`,
    );
  }
  const w = weightInputs(node.input(1), input);
  const r = weightInputs(node.input(2), recurrence);
  const [x, , , ...optional] = node.inputs;
  while (optional.length < 5) optional.push(undefined);
  const lowered = node.graph.add(
    {
      op: 'DynamicQuantizeLSTM',
      domain: 'com.microsoft',
      name: node.name,
      inputs: [x, w.codes, r.codes, ...optional, w.scale, w.zeroPoint, r.scale, r.zeroPoint],
      outputs: node.outputs,
    },
    node,
  );
  for (const [name, attribute] of node.attributes) {
    if (name !== 'layout') lowered.attributes.set(name, attribute);
  }
  node.graph.remove(node);
}

interface WeightInputs {
  readonly codes: Value;
  readonly scale: Value;
  readonly zeroPoint: Value;
}

function weightInputs(value: Value, matrix: QuantizedMatrix): WeightInputs {
  const { graph, name } = value;
  const [directions, gates] = value.tensor!.shape;
  const { columns, scheme } = matrix;
  const dtype = intFormatOf(scheme.format).signed ? 'int8' : 'uint8';
  const rowMajor = matrix.codes;
  const codes = rowMajor.slice();
  for (let direction = 0; direction < directions; direction++) {
    const start = direction * gates * columns;
    for (let gate = 0; gate < gates; gate++) {
      for (let column = 0; column < columns; column++) {
        codes[start + column * gates + gate] = rowMajor[start + gate * columns + column];
      }
    }
  }
  const perTensor = scheme.granularity.kind === 'tensor';
  const shape: Shape = perTensor ? [directions] : [directions, gates];
  const spread = (values: Float32Array) => (perTensor ? new Float32Array(directions).fill(values[0]) : values);
  const zeroPoints =
    dtype === 'int8' ? Int8Array.from(spread(matrix.zeroPoints)) : Uint8Array.from(spread(matrix.zeroPoints));
  return {
    codes: graph.addInitializer(`${name}/codes`, new Tensor(dtype, [directions, columns, gates], bytesOf(codes))),
    scale: floatValue(graph, `${name}/scale`, spread(matrix.scales), plainScaleType(scheme), shape),
    zeroPoint: graph.addInitializer(`${name}/zero_point`, new Tensor(dtype, shape, bytesOf(zeroPoints))),
  };
}
