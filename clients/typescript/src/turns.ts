/** Whose turn it is among several servers that are asked over connections of their own. */

// gRPC tries to connect again no more often than this.
const ASIDE_SECONDS = 1;

/**
 * Gives each its turn, and passes over those that took nothing the last time.
 *
 * One of these is asked again after a while, by one request, and has its turns again when it has answered that.
 */
export class Turns {
  readonly #count: number;
  readonly #seconds: () => number;
  // When each may be asked again; 0 for any time.
  readonly #asideUntil: number[];
  #turn = 0;

  /**
   * @param count How many there are.
   * @param seconds A clock that only goes forward, or a test's.
   */
  constructor(count: number, seconds = () => performance.now() / 1000) {
    this.#count = count;
    this.#seconds = seconds;
    this.#asideUntil = new Array<number>(count).fill(0);
  }

  /**
   * Whose turn it is.
   *
   * @param but Not this one's, where there is another.
   * @param isBroken Whether one is known to be out of reach, so that it is asked only where no other can be.
   */
  next(but?: number, isBroken: (place: number) => boolean = () => false): number {
    const first = this.#turn++;
    const places = Array.from({ length: this.#count }, (_, step) => (first + step) % this.#count);
    const others = places.filter((place) => place !== but);
    const now = this.#seconds();
    for (const place of others) {
      const until = this.#asideUntil[place] ?? 0;
      if (until > now || isBroken(place)) continue;
      if (until !== 0) this.setAside(place);
      return place;
    }
    return others[0] ?? first % this.#count;
  }

  /** Takes note that one takes nothing at the moment. */
  setAside(place: number): void {
    this.#asideUntil[place] = this.#seconds() + ASIDE_SECONDS;
  }

  /** Takes note that it does. */
  answered(place: number): void {
    this.#asideUntil[place] = 0;
  }
}
