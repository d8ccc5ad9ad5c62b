// Reads the images of digits.npz and scales them as the network wants them: (x / 255 - 0.5) / 0.5.
import { readFileSync } from 'node:fs';
import { unzipSync } from 'fflate';

/** Yields the images of one array of the file, each as { image: tensor }. */
export function* images(array) {
  const archive = unzipSync(readFileSync(new URL('digits.npz', import.meta.url)));
  const npy = archive[`${array}.npy`];
  // An npy file of version 1: ten bytes, of which the last two are the length of the header, the header, the values.
  const pixels = npy.subarray(10 + npy[8] + 256 * npy[9]);
  const size = 28 * 28;
  for (let start = 0; start < pixels.length; start += size) {
    const data = Float32Array.from(pixels.subarray(start, start + size), (x) => (x / 255 - 0.5) / 0.5);
    yield { image: { type: 'float32', dims: [1, 1, 28, 28], data } };
  }
}
