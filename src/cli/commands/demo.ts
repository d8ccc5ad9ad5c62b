/** `halftone demo`. */
import type { Terminal } from '../terminal.ts';
export async function demoCommand(_terminal: Terminal): Promise<void> {}
