#!/usr/bin/env node
/** The command line as a process: signals, streams that close, the exit code. What it does is in `program.ts`. */
import { describeFailure, exitCodes, Interruption } from './failure.ts';
import { run } from './program.ts';
import { createTerminal } from './terminal.ts';

/** A reader that went away (`| head`) ends the program without complaint. */
function endWithReader(stream: NodeJS.WriteStream): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? exitCodes.ok);
    throw error;
  });
}

/**
 * Stops at once when asked to. Files are written in one go and appear whole, so nothing is left half done; the signal
 * keeps work that is going on from beginning its next step.
 */
function stopOnSignals(controller: AbortController): void {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      const reason = new Interruption(name);
      controller.abort(reason);
      terminal.fail(describeFailure(reason));
      process.exit(reason.exitCode);
    });
  }
}

endWithReader(process.stdout);
endWithReader(process.stderr);
const controller = new AbortController();
const terminal = createTerminal(process.stdout, process.stderr, process.env, controller.signal);
stopOnSignals(controller);
process.exitCode = await run(process.argv.slice(2), terminal);
