/** The weights inside a model's local functions. Functions are carried through untouched, and reports say so. */
import type { Model } from '../../graph/model.ts';
import { byteLengthOf, dtypeOfNumber, isFloat } from '../../tensor/dtype.ts';
import { sizeOf } from '../../tensor/tensor.ts';
import type { ModelProto } from './generated/onnx_pb.ts';

export interface FunctionWeight {
  readonly function: string;
  /** Name of the value that holds it inside the function. */
  readonly tensor: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** The float tensors of Constant nodes inside the model's local functions, in file order. */
export function functionWeights(model: Model): FunctionWeight[] {
  const carried = model.carried as Partial<ModelProto> | undefined;
  return (carried?.functions ?? []).flatMap((fn) =>
    fn.node.flatMap((node) => {
      const tensor = node.opType === 'Constant' ? node.attribute.find(({ name }) => name === 'value')?.t : undefined;
      const dtype = tensor && dtypeOfNumber(tensor.dataType);
      if (!dtype || !isFloat(dtype)) return [];
      const shape = tensor.dims.map(Number);
      return [{ function: fn.name, tensor: node.output[0] ?? '', shape, bytes: byteLengthOf(dtype, sizeOf(shape)) }];
    }),
  );
}
