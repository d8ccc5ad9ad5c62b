/** Other tools on the same files, where this machine has them. They are no part of halftone and nothing needs them. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type Contender, finish } from './processes.ts';
import { finishOnDisk, removeModel } from './program.ts';

export interface Peer {
  /** With the versions found. */
  readonly name: string;
  readonly python: string;
}

/** ONNX Runtime's Python tool, or in one line why it is not there. */
export function findPeer(python: string): Peer | string {
  const code =
    'import onnx, onnxruntime; from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer; ' +
    'print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")';
  const { status, stdout, stderr, error } = spawnSync(python, ['-c', code], { encoding: 'utf8' });
  if (status === 0) return { name: `MatMulNBitsQuantizer of ${stdout.trim()}`, python };
  const reason = error?.message ?? stderr.trim().split('\n').at(-1) ?? '';
  return `No peer was measured: ${python} has no onnxruntime with MatMulNBitsQuantizer (${reason}).`;
}

/** The peer's int4 g32 symmetric of the same model, as a whole process. */
export function peerQuantizer({ name, python }: Peer, model: string, output: string): Contender {
  const script = fileURLToPath(new URL('peers/matmul-nbits.py', import.meta.url));
  return {
    name,
    reset: () => removeModel(output),
    run: () => finishOnDisk(python, [script, model, output]),
  };
}

/** The peer's static 8-bit form of a CNN, written to `output`. */
export async function staticPeer({ python }: Peer, model: string, output: string): Promise<void> {
  await finish(python, [fileURLToPath(new URL('peers/static-cnn.py', import.meta.url)), model, output]);
}
