/** Which classes score highest, and how often two models or a model and the labels agree on them. */

/** The indices of the `k` largest of `scores[start … start + classes)`, best first; ties go to the lower index. */
export function topClasses(scores: Float32Array, start: number, classes: number, k: number): number[] {
  const best: number[] = [];
  for (let index = 0; index < classes; index++) {
    const score = scores[start + index];
    if (Number.isNaN(score)) continue;
    let place = best.length;
    while (place > 0 && scores[start + best[place - 1]] < score) place--;
    if (place >= k) continue;
    best.splice(place, 0, index);
    if (best.length > k) best.pop();
  }
  return best;
}

export interface Agreement {
  /** Share of rows on which both models name the same best class, 0 … 1. */
  readonly top1: number;
  /** Share of rows where the float model's best class is among the other's five best; undefined below 10 classes. */
  readonly top5: number | undefined;
  /** Share of rows whose label each model names, where labels were given. */
  readonly floatAccuracy: number | undefined;
  readonly quantizedAccuracy: number | undefined;
  readonly rows: number;
}

export interface AgreementMeter {
  /**
   * Adds rows of `classes` scores; `labels` are the right classes of these rows. Rows where all of the float model's
   * scores are NaN name no class and are left out.
   */
  add(float: Float32Array, quantized: Float32Array, classes: number, labels?: readonly number[]): void;
  summary(): Agreement | undefined;
}

/** Fewer classes than this make top-5 meaningless. */
const minClassesForTop5 = 10;

export function createAgreementMeter(): AgreementMeter {
  let rows = 0;
  let same = 0;
  let among = 0;
  let wide = true;
  let labelled = 0;
  let floatRight = 0;
  let quantizedRight = 0;
  return {
    add(float, quantized, classes, labels) {
      wide &&= classes >= minClassesForTop5;
      for (let row = 0; row * classes < float.length; row++) {
        const [wanted] = topClasses(float, row * classes, classes, 1);
        if (wanted === undefined) continue;
        const found = topClasses(quantized, row * classes, classes, 5);
        rows++;
        if (found[0] === wanted) same++;
        if (found.includes(wanted)) among++;
        const label = labels?.[row];
        if (label === undefined) continue;
        labelled++;
        if (wanted === label) floatRight++;
        if (found[0] === label) quantizedRight++;
      }
    },
    summary() {
      if (rows === 0) return undefined;
      return {
        top1: same / rows,
        top5: wide ? among / rows : undefined,
        floatAccuracy: labelled > 0 ? floatRight / labelled : undefined,
        quantizedAccuracy: labelled > 0 ? quantizedRight / labelled : undefined,
        rows,
      };
    },
  };
}
