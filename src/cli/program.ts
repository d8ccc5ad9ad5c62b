/**
 * The commands and their options, and how a run of one ends. Commands, and the families whose ids options offer, are
 * loaded when a command is named, so that help is quick.
 */
import { createRequire } from 'node:module';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { messageOf } from '../base/errors.ts';
import { describeFailure, exitCodeOf, exitCodes } from './failure.ts';
import { printable } from './style.ts';
import type { Terminal } from './terminal.ts';

const examples = `
Examples:
  halftone quantize model.onnx -o small.onnx                        8-bit weights
  halftone quantize model.onnx -o small.onnx --calibrate images/ --preprocess preprocessor_config.json
                                                                    8-bit weights and activations, compared with float
  halftone quantize model.onnx -o small.onnx --weights int4:g32     4-bit weights in blocks of 32
  halftone quantize model.onnx --weights int3 --dry-run             what would be done, and the size`;

const dataHelp = `
DATA:
  FILE.npz, FILE.npy, or a folder of them     arrays named like the model's inputs, leading axis = samples
  a folder of .jpg or .png, with --preprocess a Hugging Face preprocessor_config.json
  FILE.jsonl                                  token ids, one sample a line
  FILE.mjs, FILE.js                           default export: an (async) iterable of feeds, or a function that makes one
  random                                      made-up values: checks shapes, says nothing about accuracy`;

const exitHelp = `
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 --min-sqnr not reached, 130 interrupted.
In JSON, numbers that it cannot hold are the texts "Infinity", "-Infinity" and "NaN".`;

const wholeNumber =
  (least: number) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${least}, got "${text}".`);
  };

function decimal(text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value)) return value;
  throw new InvalidArgumentError(`Expected a number, got "${text}".`);
}

const units: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
};

/** Bytes of `500MB`, `2GiB`, `1.5g`. */
function byteCount(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)\s*([kmg]?i?)b?$/i.exec(text.trim()) ?? [];
  const factor = units[unit.toLowerCase()];
  if (number !== '' && factor !== undefined) return Math.floor(Number(number) * factor);
  throw new InvalidArgumentError(`Expected a number of bytes as 500MB or 2GiB, got "${text}".`);
}

/** Adds `NAME=SIZE` to the lengths given before it. */
function dimension(text: string, before: Readonly<Record<string, number>> = {}): Record<string, number> {
  const at = text.lastIndexOf('=');
  const [name, size] = [text.slice(0, Math.max(at, 0)).trim(), text.slice(at + 1)];
  if (name === '') throw new InvalidArgumentError(`Expected NAME=SIZE, got "${text}".`);
  return { ...before, [name]: wholeNumber(0)(size) };
}

/** What has to be loaded before an option can be parsed or described. */
const unfinished = new WeakMap<Option, () => Promise<unknown>>();

/** An option that takes one of `ids`. */
function choice(flags: string, description: string, ids: () => Promise<readonly string[]>): Option {
  const option = new Option(flags, description);
  unfinished.set(option, async () => option.choices(await ids()));
  return option;
}

function weightsOption(): Option {
  const option = new Option('-w, --weights <scheme>');
  unfinished.set(option, async () => {
    const [{ formatIds }, { namedSchemes }, { schemeGrammar }] = await Promise.all([
      import('../formats/index.ts'),
      import('../formats/named.ts'),
      import('../formats/scheme.ts'),
    ]);
    const ids = [...formatIds, ...namedSchemes.map(({ id }) => id)];
    option.description = `${schemeGrammar}, or float (default: int8); \`halftone formats\` tells about them\nFORMAT: ${ids.join(' ')}`;
  });
  return option;
}

const rangeIds = async () => (await import('../ranges/index.ts')).ranges.map((range) => range.id);
const weightRangeIds = async () => (await import('../pipeline/recipe.ts')).weightRanges;
const loweringChoices = async () => ['auto', ...(await import('../lowerings/index.ts')).loweringIds];
const runtimeOption = () =>
  choice(
    '--runtime <id>',
    'which build of ONNX Runtime runs the models',
    async () => (await import('../runtime/node.ts')).runtimeIds,
  );

/** Finishes the options of commands that `args` name. */
async function finishOptions(program: Command, args: readonly string[]): Promise<void> {
  const named = program.commands.filter((command) => args.includes(command.name()));
  await Promise.all(named.flatMap((command) => command.options.map((option) => unfinished.get(option)?.())));
}

/** The program with all its commands. */
function makeProgram(terminal: Terminal): Command {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };
  const program = new Command('halftone')
    .description(
      'Low-bit quantization of neural networks: a float ONNX model in, a smaller and faster one out, with the accuracy measured.',
    )
    .version(version, '-V, --version')
    .option('--debug', 'show where an error comes from')
    .exitOverride()
    .configureOutput({
      writeOut: terminal.write,
      writeErr: terminal.writeError,
      outputError: (text, write) => write(`halftone: ${text.replace(/^error: /, '')}`),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .addHelpText('after', `${examples}\n${exitHelp}`);

  program
    .command('inspect')
    .summary('show what a model is made of')
    .description('Shows operators, parameters, bytes and value ranges of weight tensors. Runs nothing.')
    .argument('<model>', 'ONNX file')
    .option('-v, --verbose', 'list every weight tensor, not only the 20 largest')
    .option('--json', 'print one JSON document instead')
    .action(async (model: string, options) => {
      const { inspectCommand } = await import('./commands/inspect.ts');
      await inspectCommand(model, options, terminal);
    });

  program
    .command('quantize')
    .summary('make a model smaller and faster')
    .description(
      'Quantizes a float ONNX model. Alone it makes the weights 8 bits wide; with --calibrate DATA a convolutional ' +
        'network gets 8-bit activations too, layers are corrected, and the result is compared with the float model on ' +
        'every fourth sample, which is held out. Below 8 bits the first, the last and depthwise layers keep 8 bits ' +
        '(see --uniform).',
    )
    .argument('<model>', 'ONNX file')
    .option('-o, --output <file>', 'where to write the result')
    .addOption(weightsOption())
    .option(
      '-a, --activations <format>',
      'none, dynamic, float16, or a format with ranges found by calibration: uint8 or int8 for integer arithmetic; uint16, int16, uint4, int4, uint2, int2, float8e4m3fn … to see what they cost, simulated in float (default: dynamic with --lowering dynamic, uint8 with --calibrate, 8-bit integer weights and no weight-only lowering, else none)',
    )
    .optionsGroup('Data:')
    .option('-c, --calibrate <data>', 'samples of real use; see DATA below')
    .option(
      '--samples <n>',
      'read at most so many samples (default: 128, 256 or 1024, as the preset says)',
      wholeNumber(1),
    )
    .option('--preprocess <file>', 'preprocessor_config.json for pictures')
    .option('--mirror', 'calibrate on the mirror images of pictures, too')
    .option('--dimensions <name=size...>', 'lengths of open dimensions of the inputs, for made-up samples', dimension)
    .option('--labels <file>', 'right classes of the samples: .npy, .npz, .json, .txt or .csv')
    .optionsGroup('Method:')
    .addOption(
      choice(
        '--preset <id>',
        'how much is done for accuracy. fast: nearest codes, biases corrected where there are samples, seconds; balanced: ' +
          'equalized channels, gptq, minutes; best: reconstruction and refined ranges besides, as long as it pays. Each ' +
          'step is kept only where held-out samples are better with it (default: fast)',
        async () => (await import('../pipeline/presets.ts')).presetIds,
      ),
    )
    .addOption(choice('--range <id>', 'how activation ranges are chosen (default: mse; min-max for float8)', rangeIds))
    .addOption(
      choice(
        '--solver <id>',
        'nearest: the nearest codes; gptq: codes that make up for the errors of others; reconstruction: blocks learned ' +
          'from their outputs besides',
        async () => (await import('../pipeline/presets.ts')).solverSettings,
      ),
    )
    .option(
      '--corrections <list>',
      'none, or some of bias, pixels, cross-layer, smooth, awq, normalization, ranges, with commas between them (default: ' +
        'as the preset says)',
    )
    .addOption(choice('--weight-range <id>', 'how weight grids are chosen (default: search)', weightRangeIds))
    .option('--percentile <p>', 'percent of the values inside, for the range percentile (default: 99.999)', decimal)
    .addOption(
      choice('--lowering <id>', 'how quantized tensors are written into the graph (default: auto)', loweringChoices),
    )
    .option('--reduce-range', 'half of the codes for weights, against saturation on x86 without VNNI')
    .addOption(
      new Option(
        '--accuracy-level <level>',
        '4 lets MatMulNBits compute in 8 bits, 0 keeps it in float (default: 4)',
      ).choices(['0', '4']),
    )
    .optionsGroup('Choice of layers:')
    .option('--op-types <op...>', 'quantize only these operators')
    .option('--exclude <pattern...>', 'leave nodes or weights of these names alone; * stands for any text')
    .option('--uniform', 'no exceptions for first, last, depthwise and small layers')
    .option('--recipe <file>', 'settings and rules as JSON; options given beside it come first')
    .option('--allow-quantized', 'quantize what is still float in a quantized model')
    .optionsGroup('Result:')
    .option('--dry-run', 'print the plan with predicted sizes; write nothing but --report')
    .option(
      '--min-sqnr <db>',
      'write nothing and exit with 3 if outputs are noisier than this on held-out samples, or collapsed',
      decimal,
    )
    .option('--no-compare', 'do not compare the result with the float model')
    .option(
      '--external-data',
      'write tensors to a file beside the model (so is done from 1 GiB of tensors on, and with 64 MiB of external data)',
    )
    .option('--report <file>', 'write the whole report as JSON; with --dry-run the plan')
    .option('--json', 'print one JSON document instead')
    .option('-v, --verbose', 'list every weight tensor with what was done to it')
    .optionsGroup('Runtime:')
    .option('--workers <n>', 'threads that quantize weights (default: one a core, at most 8)', wholeNumber(1))
    .option('--max-memory <size>', 'resident memory not to exceed, as 500MB or 2GiB', byteCount)
    .option(
      '--resume',
      'go on where an interrupted run with this output ended, and keep what is finished if interrupted',
    )
    .option('--threads <n>', 'threads of ONNX Runtime (default: its own choice)', wholeNumber(1))
    .addOption(runtimeOption())
    .addHelpText('after', `${dataHelp}\n${exitHelp}`)
    .action(async (model: string, _options, command: Command) => {
      const { quantizeCommand } = await import('./commands/quantize.ts');
      const given = new Set(Object.keys(command.opts()).filter((key) => command.getOptionValueSource(key) === 'cli'));
      await quantizeCommand(model, command.opts(), given, terminal);
    });

  program
    .command('compare')
    .summary('measure a quantized model against its float model')
    .description(
      'Runs both models on the same samples: errors of outputs and layers, agreement, accuracy, latency, bytes.',
    )
    .argument('<float>', 'the float ONNX file')
    .argument('<quantized>', 'the quantized ONNX file')
    .requiredOption('-d, --data <data>', 'samples; see DATA below')
    .option('--samples <n>', 'read at most so many samples (default: all)', wholeNumber(1))
    .option('--preprocess <file>', 'preprocessor_config.json for pictures')
    .option('--dimensions <name=size...>', 'lengths of open dimensions of the inputs, for made-up samples', dimension)
    .option('--labels <file>', 'right classes of the samples: .npy, .npz, .json, .txt or .csv')
    .option('--min-sqnr <db>', 'exit with 3 if outputs are noisier than this, or collapsed', decimal)
    .option('--report <file>', 'write the comparison as JSON')
    .option('--json', 'print one JSON document instead')
    .option('-v, --verbose', 'list every layer, not only the worst five')
    .option('--threads <n>', 'threads of ONNX Runtime (default: its own choice)', wholeNumber(1))
    .addOption(runtimeOption())
    .addHelpText('after', `${dataHelp}\n${exitHelp}`)
    .action(async (float: string, quantized: string, options) => {
      const { compareCommand } = await import('./commands/compare.ts');
      await compareCommand(float, quantized, options, terminal);
    });

  program
    .command('formats')
    .summary('list the number formats: bits, error, and what executes them')
    .description(
      'Lists every number format and named scheme that --weights takes: bits of a weight in the file, levels, signal to ' +
        'noise on normal and Laplace numbers, and the kernels of ONNX Runtime that read its codes. Reads no model.',
    )
    .option('--json', 'print one JSON document instead')
    .action(async (options) => {
      const { formatsCommand } = await import('./commands/formats.ts');
      formatsCommand(options, terminal);
    });

  program
    .command('demo')
    .summary('quantize a digit classifier from a PyTorch file and watch what correction does')
    .description(
      'Reads a small PyTorch checkpoint, builds its network, quantizes the weights, classifies an image, corrects, and ' +
        'classifies it again; then the same for 8, 4, 3, 2 and 1 bits on 1,000 test images.',
    )
    .action(async () => {
      const { demoCommand } = await import('./commands/demo.ts');
      await demoCommand(terminal);
    });
  return program;
}

/**
 * Runs one command line to its end and says why when it fails.
 * @param args without the program's own name
 * @returns the exit code
 */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const program = makeProgram(terminal);
  try {
    await finishOptions(program, args);
    await program.parseAsync([...args], { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) {
      const shown = ['commander.helpDisplayed', 'commander.version'].includes(error.code);
      return shown ? exitCodes.ok : exitCodes.usage;
    }
    terminal.fail(printable(describeFailure(error)));
    if (program.opts().debug && error instanceof Error) terminal.writeError(`${stackOf(error)}\n`);
    return exitCodeOf(error);
  }
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\nCaused by: ${stackOf(error.cause)}` : '';
  return `${error.stack ?? messageOf(error)}${cause}`;
}
