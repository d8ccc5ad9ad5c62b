/** What halftone reads: bounds that come from ONNX and from the runtime it targets. */

/** Opset 7 is the oldest that ONNX Runtime guarantees to run; 26 the newest that ONNX Runtime 1.30 loads. */
export const opsetRange = { min: 7, max: 26 } as const;

/** Opsets are imported explicitly from IR version 3 on (onnx/docs/Versioning.md). */
export const minIrVersion = 3;

/** A protobuf message holds less than 2 GiB (protobuf encoding guide); beyond it, data must be external. */
export const maxMessageBytes = 2 ** 31 - 1;
