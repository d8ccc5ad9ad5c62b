// 128 images to calibrate with: halftone quantize digits-cnn.onnx -o small.onnx --calibrate calibration.mjs
import { images } from './read.mjs';

export default () => images('calibration');
