import type { PhysicalMemory } from './physical.ts';

/**
 * One transfer of a device, whose bytes lie wherever translation says: places that follow one another where they are
 * kept are reached at once, which for the memory of programs saves a system call a page.
 */
export class Scatter {
  readonly #memory: PhysicalMemory;
  readonly #data: Uint8Array;
  readonly #write: boolean;
  /** Bytes that have been transferred. */
  done = 0;
  /** Bytes after those that have a place, and what places: the first, and the end of the last. */
  #pending = 0;
  #pa = 0;
  #end = 0;
  #places = 0;

  /** Writes `data` from its start on, or fills it. */
  constructor(memory: PhysicalMemory, data: Uint8Array, write: boolean) {
    this.#memory = memory;
    this.#data = data;
    this.#write = write;
  }

  /** The next `bytes` lie at `pa`. False where the bytes before them could not be transferred. */
  add(pa: number, bytes: number): boolean {
    if (this.#pending > 0 && this.#memory.kept?.follows(this.#end, pa) === true) {
      this.#pending += bytes;
    } else {
      if (!this.flush()) return false;
      this.#pa = pa;
      this.#places = 0;
      this.#pending = bytes;
    }
    this.#end = pa + bytes;
    this.#places++;
    return true;
  }

  /** The next `bytes` have no place: they are zero where they are read. False as for {@link add}. */
  skip(bytes: number): boolean {
    if (!this.flush()) return false;
    if (!this.#write) this.#data.fill(0, this.done, this.done + bytes);
    this.done += bytes;
    return true;
  }

  /** Transfers what has a place. False where memory refuses; {@link done} tells how far it came. */
  flush(): boolean {
    const bytes = this.#pending;
    if (bytes === 0) return true;
    this.#pending = 0;
    const part = this.#data.subarray(this.done, this.done + bytes);
    const memory = this.#places > 1 ? this.#memory.kept! : this.#memory;
    const reached = this.#write ? memory.write(this.#pa, part) : memory.read(this.#pa, part);
    if (reached) this.done += bytes;
    return reached;
  }

  /** Ends the transfer with what stopped it, if anything did; with 'bus' where memory refuses what has a place. */
  end<Stopped>(stopped: Stopped): { readonly done: number; readonly stopped: Stopped | 'bus' } {
    const reached = this.flush();
    return { done: this.done, stopped: reached ? stopped : 'bus' };
  }
}
