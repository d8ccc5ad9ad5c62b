/** The public API that every environment shares. `node.ts` and `browser.ts` add how models and runtimes are opened. */
export { type ErrorCode, errorCodes, HalftoneError, isHalftoneError } from './base/errors.ts';
export { type ReadOptions, readOnnx } from './files/onnx/read.ts';
export { writeOnnx } from './files/onnx/write.ts';
export { type GgufType, type GgufTypeId, ggufTypeIds, ggufTypeOf, ggufTypeOfNumber } from './formats/gguf/index.ts';
export { type FormatId, formatIds } from './formats/index.ts';
export { formatScheme, parseScheme, type Scheme } from './formats/scheme.ts';
export { Model } from './graph/model.ts';
export { type LoweringId, loweringIds } from './lowerings/index.ts';
export type { CompareOptions, Comparison, Latency, LayerError } from './pipeline/compare.ts';
export { compare as compareModels } from './pipeline/compare.ts';
export type { Executor } from './pipeline/executor.ts';
export { inputsOf } from './pipeline/inputs.ts';
export { type Inspection, inspect } from './pipeline/inspect.ts';
export type { SolvedPart, SolveJob } from './pipeline/job.ts';
export type { ActivationPlan, Plan, WeightPlan } from './pipeline/plan.ts';
export {
  type ProgressEvent,
  planQuantization,
  type Quantized,
  type QuantizeOptions,
  quantizeModel,
} from './pipeline/quantize.ts';
export type { Recipe, RecipeInput, Rule, RuleMatch, RuleUse } from './pipeline/recipe.ts';
export type { Report } from './pipeline/report.ts';
export type { FinishedWeight, Store, StoredRange } from './pipeline/store.ts';
export { type RangeId, ranges } from './ranges/index.ts';
export type { Feeds, Runtime, Session, SessionOptions, ValueInfo } from './runtime/runtime.ts';
export { type RandomOptions, randomSamples } from './samples/random.ts';
export type { Samples } from './samples/sample.ts';
export { batches, split, take } from './samples/select.ts';
export type { DType } from './tensor/dtype.ts';
export type { ByteSource, FileRange } from './tensor/source.ts';
export { type Shape, Tensor } from './tensor/tensor.ts';
