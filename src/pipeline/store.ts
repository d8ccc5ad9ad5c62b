/** Where finished weights wait until the model is written: in memory, or in a file that an interrupted run leaves behind. */
import { concatenated } from '../tensor/pieces.ts';
import type { ByteSource } from '../tensor/source.ts';

/** What is known of a finished weight, as plain data. Offsets count bytes of the store. */
export interface FinishedWeight {
  readonly tensor: string;
  readonly scheme: string;
  /** Σ value² and Σ (value − quantized value)². */
  readonly energy: number;
  readonly error: number;
  /** Set where the weight stays as it is. */
  readonly left?: string;
  readonly codes: StoredRange;
  readonly scales: StoredRange;
  readonly zeroPoints: number | StoredRange;
  readonly factors?: StoredRange;
  readonly codebook?: StoredRange;
}

export type StoredRange = readonly [offset: number, byteLength: number];

export interface Store {
  /** Keeps bytes behind those before; returns their offset. @throws HalftoneError `runtime` when the disk refuses. */
  append(bytes: Uint8Array): number;
  /** Makes the next bytes begin where those of a tensor may, in a file of external data. */
  align(): void;
  /** Gives up what was put in from an offset on. */
  rewind(offset: number): void;
  range(range: StoredRange): ByteSource;
  /** A weight that an interrupted run has finished. */
  find(tensor: string): FinishedWeight | undefined;
  /** Notes that a weight is finished, for a run that resumes this one. It may take a while until that is on the disk. */
  finished(weight: FinishedWeight): void;
}

/** A store that ends with the run. */
export function memoryStore(): Store {
  const chunks: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  let end = 0;
  const read = (from: number, to: number) => {
    const inside = chunks.filter(({ offset, bytes }) => offset < to && offset + bytes.byteLength > from);
    return concatenated(inside.map(({ offset, bytes }) => bytes.subarray(Math.max(from - offset, 0), to - offset)));
  };
  return {
    append(bytes) {
      chunks.push({ offset: end, bytes });
      end += bytes.byteLength;
      return end - bytes.byteLength;
    },
    align() {},
    rewind(offset) {
      while ((chunks.at(-1)?.offset ?? -1) >= offset) chunks.pop();
      end = offset;
    },
    range: ([offset, byteLength]) => ({
      byteLength,
      read: (start = 0, stop = byteLength) => read(offset + start, offset + stop),
    }),
    find: () => undefined,
    finished() {},
  };
}
