/** The channels of a whole graph as numbers: which are one and the same, and which must keep their scale, and why. */

export class Channels {
  readonly #parents: number[] = [];
  readonly #reasons: (string | undefined)[] = [];

  get count(): number {
    return this.#parents.length;
  }

  /** New channels, each on its own. */
  fresh(count: number): Int32Array {
    const first = this.#parents.length;
    return Int32Array.from({ length: count }, (_, index) => {
      this.#parents.push(first + index);
      this.#reasons.push(undefined);
      return first + index;
    });
  }

  /** The number that stands for all channels that are one with this. */
  find(channel: number): number {
    let root = channel;
    while (this.#parents[root] !== root) {
      this.#parents[root] = this.#parents[this.#parents[root]];
      root = this.#parents[root];
    }
    return root;
  }

  /** Makes channels one, position by position; −1 is nothing's. */
  join(first: Int32Array, second: Int32Array): void {
    for (const [index, channel] of first.entries()) {
      if (channel < 0 || second[index] < 0) continue;
      const [a, b] = [this.find(channel), this.find(second[index])];
      if (a === b) continue;
      this.#parents[b] = a;
      this.#reasons[a] ??= this.#reasons[b];
    }
  }

  /** Says that these must keep their scale. The first reason stays. */
  freeze(channels: Int32Array, reason: string): void {
    for (const channel of channels) if (channel >= 0) this.#reasons[this.find(channel)] ??= reason;
  }

  /** Why the channel must keep its scale, or undefined where it need not. */
  reasonOf(channel: number): string | undefined {
    return this.#reasons[this.find(channel)];
  }

  /** True when all of them must. */
  areFrozen(channels: Int32Array): boolean {
    return channels.every((channel) => channel < 0 || this.reasonOf(channel) !== undefined);
  }
}
