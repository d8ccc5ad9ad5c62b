/** Reverse-mode differentiation of models: gradients are nodes of the same graph, and ONNX Runtime computes them. */
export { addGradients, type GradientRequest } from './gradients.ts';
export { addMeanSquaredError } from './loss.ts';
export { differentiable } from './rules/index.ts';
export { observeShapes } from './shapes.ts';
