/** The concrete shapes of all values of a model, found by running it. */

import { writeOnnx } from '../files/onnx/write.ts';
import { inferDtypes } from '../graph/dtypes.ts';
import type { Model } from '../graph/model.ts';
import type { Feeds, Runtime } from '../runtime/runtime.ts';

/**
 * The concrete shape of every tensor of the main graph for these feeds, by name: inputs, constants, results of nodes. Runs
 * the model once, as it is written, with a Shape at every result, so that no activation leaves the runtime.
 * @throws HalftoneError `runtime` when the model does not run.
 */
export async function observeShapes(
  model: Model,
  feeds: Feeds,
  runtime: Runtime,
): Promise<Map<string, readonly number[]>> {
  const shapes = new Map<string, readonly number[]>();
  for (const value of model.graph.initializers) if (value.tensor) shapes.set(value.name, value.tensor.shape);
  for (const { name } of model.graph.inputs) if (feeds[name]) shapes.set(name, feeds[name].shape);
  const { bytes, watched } = withShapes(model);
  const session = await runtime.open(bytes, { optimization: 'disabled' });
  try {
    const given = Object.fromEntries(session.inputs.map(({ name }) => [name, feeds[name]]));
    const results = await session.run(given);
    for (const [name, output] of watched) shapes.set(name, results[output].integers());
  } finally {
    await session.close();
  }
  return shapes;
}

/** The model as bytes, with the shape of each result as an output: value name → output name. The model stays as it was. */
function withShapes(model: Model): { bytes: Uint8Array; watched: Map<string, string> } {
  const { graph } = model;
  const types = inferDtypes(model);
  const results = graph.nodes
    .flatMap((node) => node.outputs)
    .filter((value) => value !== undefined && !types.get(value)?.sequence);
  const outputs = [...graph.outputs];
  const added = results.map((value) =>
    graph.add({
      op: 'Shape',
      inputs: [value],
      outputs: [graph.addValue('shape', { dtype: 'int64', shape: [undefined] })],
    }),
  );
  try {
    graph.outputs.splice(0, outputs.length, ...added.map((node) => node.output()));
    const watched = new Map(added.map((node) => [node.input(0).name, node.output().name] as const));
    return { bytes: writeOnnx(model), watched };
  } finally {
    graph.outputs.splice(0, graph.outputs.length, ...outputs);
    for (const node of added) graph.remove(node);
  }
}
