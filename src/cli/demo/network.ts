/** The article's network around the weights of a PyTorch file: conv 1→32 3×3, ReLU, flatten, fully connected to 10 digits. */
import { HalftoneError } from '../../base/errors.ts';
import type { TorchFile } from '../../files/torch/torch.ts';
import { Graph, Names } from '../../graph/graph.ts';
import { Model } from '../../graph/model.ts';
import type { Tensor } from '../../tensor/tensor.ts';

/** The names of the network's input and output. */
export const imageName = 'image';
export const scoresName = 'scores';

/** Pixels along each side of an image, and digits to tell apart. */
export const side = 28;
export const classes = 10;

/** The state dict of the article's `CNNModel`: `self.conv1 = Conv2d(1, 32, 3)`, `self.fc1 = Linear(32·26·26, 10)`. */
const parameters = {
  'conv1.weight': [32, 1, 3, 3],
  'conv1.bias': [32],
  'fc1.weight': [classes, 32 * 26 * 26],
  'fc1.bias': [classes],
} as const;

/** IR and operator set that every ONNX Runtime of recent years loads. */
const irVersion = 8;
const opset = 17;

/**
 * The network as an ONNX model. Images are float32 [batch, 1, 28, 28], scores [batch, 10].
 * @throws HalftoneError `invalid-file` when a tensor of the state dict is missing or has another shape.
 */
export function buildNetwork(checkpoint: TorchFile): Model {
  const graph = new Graph('CNNModel', new Names());
  const parameter = (name: keyof typeof parameters) => graph.addInitializer(name, tensorOf(checkpoint, name));
  const image = graph.addValue(imageName, { dtype: 'float32', shape: ['batch', 1, side, side] });
  graph.inputs.push(image);
  const conv = graph.add({
    op: 'Conv',
    name: 'conv1',
    inputs: [image, parameter('conv1.weight'), parameter('conv1.bias')],
    outputs: ['conv1_out'],
    attributes: { kernel_shape: [3, 3] },
  });
  const relu = graph.add({ op: 'Relu', name: 'relu', inputs: [conv.output()], outputs: ['relu_out'] });
  const flat = graph.add({
    op: 'Flatten',
    name: 'flatten',
    inputs: [relu.output()],
    outputs: ['flatten_out'],
    attributes: { axis: 1 },
  });
  const scores = graph.addValue(scoresName, { dtype: 'float32', shape: ['batch', classes] });
  // torch.nn.Linear keeps its weight as [out, in].
  graph.add({
    op: 'Gemm',
    name: 'fc1',
    inputs: [flat.output(), parameter('fc1.weight'), parameter('fc1.bias')],
    outputs: [scores],
    attributes: { transB: 1 },
  });
  graph.outputs.push(scores);
  return new Model(graph, irVersion, new Map([['', opset]]));
}

function tensorOf(checkpoint: TorchFile, name: keyof typeof parameters): Tensor {
  const tensor = checkpoint.entries.get(name);
  const shape = parameters[name];
  if (tensor?.dtype === 'float32' && tensor.shape.join() === shape.join()) return tensor;
  const found = tensor ? `${tensor.dtype}[${tensor.shape.join(',')}]` : [...checkpoint.entries.keys()].join(', ');
  throw new HalftoneError('invalid-file', `state dict: expected ${name} float32[${shape.join(',')}], got ${found}`);
}
