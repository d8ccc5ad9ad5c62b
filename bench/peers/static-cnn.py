"""MODEL OUTPUT: static uint8 × int8 per channel by ONNX Runtime's own quantize_static, ranges of made-up inputs: for speed."""

import sys
import tempfile

import numpy
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

model, output = sys.argv[1:]
(entry,) = onnxruntime.InferenceSession(model).get_inputs()
shape = [size if isinstance(size, int) else 1 for size in entry.shape]


class MadeUp(CalibrationDataReader):
    def __init__(self):
        self.left = 4

    def get_next(self):
        self.left -= 1
        if self.left < 0:
            return None
        values = numpy.random.RandomState(self.left).uniform(-1, 1, shape)
        return {entry.name: values.astype(numpy.float32)}


with tempfile.NamedTemporaryFile(suffix=".onnx") as prepared:
    quant_pre_process(model, prepared.name)
    quantize_static(
        prepared.name,
        output,
        MadeUp(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
