/** Node only: finished weights in a file beside the output, with a journal from which an interrupted run goes on. */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  fdatasync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { resolve } from 'node:path';
import { HalftoneError, isHalftoneError, messageOf } from '../base/errors.ts';
import { readFully } from '../files/file-source.ts';
import { type DataFile, externalAlignment } from '../files/onnx/write-files.ts';
import type { ByteSource } from '../tensor/source.ts';
import type { FinishedWeight, Store, StoredRange } from './store.ts';

export interface FileStore extends Store, DataFile {
  /** Weights taken over from an interrupted run. */
  readonly resumed: number;
  /** Weights of an interrupted run that were given up, because nobody asked to resume it. */
  readonly givenUp: number;
  /** Closes the files; they stay only for a run that resumes this one. */
  close(options: { keep: boolean }): void;
}

interface Header {
  readonly halftone: 'journal';
  /** What the run does, to what. */
  readonly fingerprint: string;
  readonly process: number;
  /** Tells the process from a later one of the same number, where the system says when it started. */
  readonly started?: string;
}

export interface FileStoreOptions {
  /** Anything that decides what is stored: the plan, the model's file. Compared when resuming. */
  readonly identity: unknown;
  /** Go on where an interrupted run ended, if there was one. Default false: what it left is overwritten. */
  readonly resume?: boolean;
}

/** The files of an unfinished run that will write to `output`. */
export function unfinishedPaths(output: string): { data: string; journal: string } {
  return { data: `${output}.unfinished`, journal: `${output}.unfinished.jsonl` };
}

/**
 * Opens the store of a run that will write to `output`.
 * @throws HalftoneError `usage` while another run writes the same output, or when resuming one that did something else;
 * `runtime` when the disk refuses.
 */
export function openFileStore(output: string, { identity, resume = false }: FileStoreOptions): FileStore {
  const paths = unfinishedPaths(output);
  const fingerprint = createHash('sha256').update(JSON.stringify(identity)).digest('hex');
  const started = startOf(process.pid);
  const header: Header = { halftone: 'journal', fingerprint, process: process.pid, ...(started ? { started } : {}) };
  return guarded(output, () => {
    const earlier = readJournal(paths.journal);
    const own = resolve(output);
    if (openOutputs.has(own) || (earlier && isAlive(earlier.header))) {
      throw new HalftoneError(
        'usage',
        `${output}: expected to be the only one that writes it, got process ${earlier?.header.process ?? process.pid} at work on it; ` +
          `wait for it, or delete "${paths.journal}" if it is something else`,
      );
    }
    if (resume && earlier && earlier.header.fingerprint !== fingerprint) {
      throw new HalftoneError(
        'usage',
        `${output}: expected to resume the same work, got what another command, model or version of halftone left in ` +
          `"${paths.journal}"; repeat that command, or leave out --resume to start again`,
      );
    }
    const goesOn = resume && earlier !== undefined && existsSync(paths.data);
    const descriptor = openSync(paths.data, goesOn ? 'r+' : 'w+');
    let finished: FinishedWeight[] = [];
    let end = 0;
    try {
      finished = goesOn ? wholeWeights(earlier.weights, fstatSync(descriptor).size) : [];
      for (const [offset, byteLength] of finished.flatMap(rangesOf)) end = Math.max(end, offset + byteLength);
      ftruncateSync(descriptor, end);
      writeFileSync(paths.journal, [header, ...finished].map((line) => `${JSON.stringify(line)}\n`).join(''));
    } catch (error) {
      closeSync(descriptor);
      if (!goesOn) rmSync(paths.data, { force: true });
      throw error;
    }
    openOutputs.add(own);
    const journal = new Journal(paths.journal, descriptor);
    const known = new Map(finished.map((weight) => [weight.tensor, weight]));
    const offsets = new WeakMap<ByteSource, number>();
    let isOpen = true;
    return {
      path: paths.data,
      resumed: finished.length,
      givenUp: resume ? 0 : (earlier?.weights.length ?? 0),
      append(bytes) {
        const offset = end;
        guarded(output, () => {
          journal.check();
          for (let done = 0; done < bytes.byteLength; ) {
            done += writeSync(descriptor, bytes, done, Math.min(bytes.byteLength - done, 2 ** 30), offset + done);
          }
        });
        end += bytes.byteLength;
        return offset;
      },
      align() {
        end = Math.ceil(end / externalAlignment) * externalAlignment;
      },
      rewind(offset) {
        end = offset;
      },
      get byteLength() {
        return end;
      },
      offsetOf: (source) => offsets.get(source),
      finish() {
        guarded(output, () => {
          ftruncateSync(descriptor, end);
          fsyncSync(descriptor);
        });
      },
      range([offset, byteLength]) {
        const readInto = (target: Uint8Array, start: number) => {
          const count = readFully(descriptor, target, offset + start);
          if (count === target.byteLength) return;
          throw new HalftoneError(
            'runtime',
            `${paths.data}: expected ${target.byteLength} bytes at ${offset + start}, got ${count}; start again`,
          );
        };
        const source: ByteSource = {
          byteLength,
          readInto,
          read(start = 0, stop = byteLength) {
            const bytes = new Uint8Array(stop - start);
            readInto(bytes, start);
            return bytes;
          },
        };
        offsets.set(source, offset);
        return source;
      },
      find: (tensor) => known.get(tensor),
      finished: (weight) => journal.add(weight),
      close({ keep }) {
        if (!isOpen) return;
        isOpen = false;
        openOutputs.delete(own);
        journal.close({ keep });
        closeSync(descriptor);
        if (keep) return;
        for (const path of [paths.journal, paths.data]) rmSync(path, { force: true });
      },
    };
  });
}

/** Outputs that this process is at work on. */
const openOutputs = new Set<string>();

/** Lists finished weights, each when its bytes have reached the disk: then not even a power cut leaves it half there. */
class Journal {
  readonly #path: string;
  readonly #descriptor: number;
  #waiting: FinishedWeight[] = [];
  /** What the round that is under way brings to the disk. */
  #underWay: FinishedWeight[] = [];
  #isSyncing = false;
  #failure: unknown;
  #isOpen = true;

  constructor(path: string, descriptor: number) {
    this.#path = path;
    this.#descriptor = descriptor;
  }

  add(weight: FinishedWeight): void {
    this.#waiting.push(weight);
    this.#sync();
  }

  /** @throws what went wrong since, on a disk that is full for example. */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  close({ keep }: { keep: boolean }): void {
    this.#isOpen = false;
    if (!keep || this.#failure) return;
    fsyncSync(this.#descriptor);
    this.#write([...this.#underWay, ...this.#waiting]);
  }

  /** While one round is under way the next ones gather. */
  #sync(): void {
    if (this.#isSyncing || this.#waiting.length === 0) return;
    this.#isSyncing = true;
    this.#underWay = this.#waiting;
    this.#waiting = [];
    fdatasync(this.#descriptor, (error) => {
      this.#isSyncing = false;
      if (!this.#isOpen) return;
      try {
        if (error) throw error;
        this.#write(this.#underWay);
      } catch (cause) {
        this.#failure = cause;
      }
      this.#underWay = [];
      this.#sync();
    });
  }

  #write(weights: readonly FinishedWeight[]): void {
    appendFileSync(this.#path, weights.map((weight) => `${JSON.stringify(weight)}\n`).join(''));
  }
}

function guarded<T>(output: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (isHalftoneError(error)) throw error;
    throw new HalftoneError(
      'runtime',
      `${output}: expected to keep finished weights beside it, got ${messageOf(error)}`,
      {
        cause: error,
        fields: { path: output },
      },
    );
  }
}

/** Undefined where there is no journal, or none with a whole first line. */
function readJournal(path: string): { header: Header; weights: FinishedWeight[] } | undefined {
  if (!existsSync(path)) return undefined;
  const lines: unknown[] = [];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    try {
      lines.push(JSON.parse(line));
    } catch {
      // The line that was being written when the run ended, and the empty one behind the last.
      break;
    }
  }
  const [header, ...weights] = lines;
  if ((header as Partial<Header> | null)?.halftone !== 'journal') return undefined;
  return { header: header as Header, weights: weights as FinishedWeight[] };
}

function rangesOf({ codes, scales, zeroPoints, factors, codebook }: FinishedWeight): StoredRange[] {
  const more = [typeof zeroPoints === 'number' ? undefined : zeroPoints, factors, codebook];
  return [codes, scales, ...more.filter((range) => range !== undefined)];
}

/** The weights of which every byte is there. */
function wholeWeights(weights: readonly FinishedWeight[], size: number): FinishedWeight[] {
  const isWhole = (weight: FinishedWeight) =>
    rangesOf(weight).every(([offset, byteLength]) => offset >= 0 && offset + byteLength <= size);
  const broken = weights.findIndex((weight) => !isWhole(weight));
  return broken < 0 ? [...weights] : weights.slice(0, broken);
}

function isAlive({ process: id, started }: Header): boolean {
  if (id === process.pid) return false;
  try {
    process.kill(id, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  return startOf(id) === started;
}

/** When a process started, in ticks since boot; undefined for one that has ended, and where there is no /proc. */
export function startOf(id: number): string | undefined {
  try {
    // Behind the name in parentheses: the state, and as the 20th field the start (proc(5), /proc/pid/stat).
    const [state, ...fields] = readFileSync(`/proc/${id}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return state === 'Z' || state === 'X' ? undefined : fields[18];
  } catch {
    return undefined;
  }
}
