/** A promise that knows whether anybody has asked for what it brings: by await, then, or Promise.all. */
export class Asked<T> extends Promise<T> {
  static override get [Symbol.species]() {
    return Promise;
  }

  isAsked = false;

  // biome-ignore lint/suspicious/noThenProperty: it is a promise
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.isAsked = true;
    return super.then(onFulfilled, onRejected);
  }
}

/** The same promise, which knows whether it was asked. */
export function asked<T>(promise: Promise<T>): Asked<T> {
  return new Asked((resolve, reject) => {
    promise.then(resolve, reject);
  });
}
