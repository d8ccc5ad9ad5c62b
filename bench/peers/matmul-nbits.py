"""MODEL OUTPUT: int4 g32 symmetric by ONNX Runtime's own MatMulNBitsQuantizer, embeddings too, as bench/peers.ts asks."""

import sys

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.quant_utils import QuantFormat

model, output = sys.argv[1:]
quantizer = MatMulNBitsQuantizer(
    onnx.load(model),
    bits=4,
    block_size=32,
    is_symmetric=True,
    accuracy_level=4,
    quant_format=QuantFormat.QOperator,
    op_types_to_quantize=("MatMul", "Gather"),
    quant_axes=(("MatMul", 0), ("Gather", 1)),
)
quantizer.process()
quantizer.model.save_model_to_file(output, use_external_data_format=True)
