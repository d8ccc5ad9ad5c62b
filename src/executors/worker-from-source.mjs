/** Stands in for the built script of a worker thread where TypeScript sources are run: a loader does not reach threads. */
import { register } from 'tsx/esm/api';

register();
await import('./worker-node.ts');
