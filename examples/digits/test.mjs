// 1,000 images to test on: halftone compare digits-cnn.onnx small.onnx --data test.mjs --labels digits.npz
import { images } from './read.mjs';

export default () => images('test_images');
