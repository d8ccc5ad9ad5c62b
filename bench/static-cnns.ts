/** Static 8-bit CNNs of halftone and of the peer's tool, each beside the same float file: how much faster they are. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { assets } from './data.ts';
import { speedupOf, timingsOf } from './latency.ts';
import { findPeer, staticPeer } from './peers.ts';
import { finish } from './processes.ts';
import type { Program } from './program.ts';
import { mark, table } from './report.ts';

const models = ['mobilenet-v2', 'squeezenet1.1', 'resnet20-cifar10'];

/** By its fastest run; the peer's files vary by as much from run to run. */
const tolerance = 0.95;

export async function staticCnnTable(program: Program, folder: string, python: string): Promise<string> {
  const peer = findPeer(python);
  const rows: string[][] = [];
  for (const model of models) {
    const path = join(assets, 'models', `${model}.onnx`);
    const own = join(folder, `${model}.own.onnx`);
    const made = ['--activations', 'uint8', '--calibrate', 'random', '--samples', '4', '--no-compare'];
    await finish(process.execPath, [program.main, 'quantize', path, '-o', own, ...made]);
    const other = join(folder, `${model}.peer.onnx`);
    if (typeof peer !== 'string') await staticPeer(peer, path, other);
    const timed = (file: string) => timingsOf(readFileSync(path), readFileSync(file));
    const ours = timed(own);
    const theirs = typeof peer === 'string' ? [] : timed(other);
    ours.forEach((timing, index) => {
      const against = theirs[index] && speedupOf(theirs[index]);
      rows.push([
        model,
        String(timing.threads),
        timing.fastest.map((time) => time.toFixed(2)).join(' → '),
        `${speedupOf(timing).toFixed(2)}×`,
        against ? `${against.toFixed(2)}×` : '–',
        against ? mark(speedupOf(timing) >= tolerance * against) : '–',
      ]);
    });
  }
  const head = [
    'model',
    'threads',
    'fastest run, ms',
    'faster than float',
    "the peer's file",
    `at least ${tolerance} of it`,
  ];
  return [table(head, rows), ...(typeof peer === 'string' ? [peer] : [])].join('\n\n');
}
