/** Node only: the script of a worker thread. */
import { openRange } from './node.ts';
import { serve } from './serve.ts';

serve(openRange);
