import type { Model } from '../graph/model.ts';
import type { Statistics } from './calibrate.ts';
export function convertToFloat16(_m: Model, _s: Statistics | undefined): string[] {
  return [];
}
