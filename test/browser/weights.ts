/** The script of the workers that quantize weights, as an application has it. */
import 'halftone/worker';
