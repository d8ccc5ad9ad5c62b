/** `halftone compare`: a quantized model beside its float model, on the same samples. */
import { readModel } from '../../files/onnx/node.ts';
import { compare } from '../../pipeline/compare.ts';
import { take } from '../../samples/select.ts';
import { enforce, judgeBy, printComparison } from '../comparison.ts';
import { checkOutput, inputPaths, writeText } from '../files.ts';
import { bytes, jsonText, plural, ratio } from '../numbers.ts';
import { type Dimensions, explainingMadeUp, openData, runtimeFor } from '../open.ts';
import type { Terminal } from '../terminal.ts';

export interface CompareCommandOptions {
  readonly data: string;
  readonly samples?: number;
  readonly preprocess?: string;
  readonly dimensions?: Dimensions;
  readonly labels?: string;
  readonly minSqnr?: number;
  readonly report?: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
  readonly threads?: number;
  readonly runtime?: string;
}

/**
 * Runs the command.
 * @throws HalftoneError as the readers; `accuracy` when the gate is not passed.
 */
export async function compareCommand(
  floatPath: string,
  quantizedPath: string,
  options: CompareCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const { report, data, labels: labelsPath, preprocess } = options;
  if (report !== undefined) {
    checkOutput('--report', report, [floatPath, quantizedPath, ...inputPaths(data, labelsPath, preprocess)]);
  }
  const external: string[] = [];
  const float = readModel(floatPath, (file) => external.push(file));
  const quantized = readModel(quantizedPath, (file) => external.push(file));
  if (report !== undefined) checkOutput('--report', report, external);
  const { samples, labels } = await openData(float, options.data, options, terminal);
  const runtime = runtimeFor(options.runtime, terminal);
  const limited = options.samples === undefined ? samples : take(samples, options.samples);
  const comparison = await explainingMadeUp(float, samples, () =>
    compare(float, quantized, limited, runtime, {
      clock: terminal.clock,
      signal: terminal.signal,
      ...(labels ? { labels } : {}),
      ...(options.threads === undefined ? {} : { threads: options.threads }),
      onProgress: (done, total) => terminal.progress.show({ step: 'compare', done, total }),
    }),
  );
  const gate = options.minSqnr === undefined ? undefined : judgeBy(options.minSqnr, comparison);
  const document = jsonText({
    version: 1,
    float: { path: floatPath, bytes: comparison.floatBytes },
    quantized: { path: quantizedPath, bytes: comparison.quantizedBytes },
    ...(gate ? { gate } : {}),
    comparison,
  });
  if (options.report !== undefined) writeText(options.report, `${document}\n`);
  if (options.json) terminal.print(document);
  else {
    const { floatBytes, quantizedBytes } = comparison;
    const change = `${bytes(floatBytes)} → ${bytes(quantizedBytes)} (${ratio(floatBytes, quantizedBytes)} smaller)`;
    terminal.print(terminal.style.bold(`${floatPath} → ${quantizedPath}`), `  bytes            ${change}`);
    printComparison(
      comparison,
      `Compared on ${plural(comparison.samples, 'sample')} of ${comparison.data}`,
      options.verbose === true,
      terminal,
    );
  }
  enforce(gate, '');
}
