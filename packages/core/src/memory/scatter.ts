import { KEPT, type KeptRun, type PhysicalMemory } from './physical.ts';

/** Runs that wait to be read at once: a mebibyte of pages in any order. */
const RUNS_MAX = 256;
const NO_RUNS: readonly KeptRun[] = [];

/**
 * One transfer of a device, whose bytes lie wherever translation says: places that follow one another where they are
 * kept are reached at once, and places in the same memory are read at once, which for the memory of programs saves a
 * system call a page.
 */
export class Scatter {
  readonly #memory: PhysicalMemory;
  readonly #data: Uint8Array;
  readonly #write: boolean;
  /** Bytes that have been transferred. */
  done = 0;
  /** Runs that wait, before the last one; all are kept together. */
  #runs: KeptRun[] | null = null;
  /** The last run: its bytes, where it starts and ends, and of how many places it is made. */
  #bytes = 0;
  #pa = 0;
  #end = 0;
  #places = 0;

  /** Writes `data` from its start on, or fills it. */
  constructor(memory: PhysicalMemory, data: Uint8Array, write: boolean) {
    this.#memory = memory;
    this.#data = data;
    this.#write = write;
  }

  /** The next `bytes` lie at `pa`. False where bytes before them could not be transferred. */
  add(pa: number, bytes: number): boolean {
    const { kept } = this.#memory;
    const how = this.#bytes === 0 || kept === undefined ? KEPT.APART : kept.relation(this.#end, pa);
    if (how === KEPT.BEHIND) {
      this.#bytes += bytes;
      this.#places++;
    } else {
      if (how === KEPT.APART || this.#write || !this.#wait()) {
        if (!this.flush()) return false;
      }
      this.#pa = pa;
      this.#bytes = bytes;
      this.#places = 1;
    }
    this.#end = pa + bytes;
    return true;
  }

  /** Lets the last run wait for the next one. False where too many do. */
  #wait(): boolean {
    this.#runs ??= [];
    if (this.#runs.length === RUNS_MAX - 1) return false;
    this.#runs.push({ pa: this.#pa, bytes: this.#bytes });
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
    const last = { pa: this.#pa, bytes: this.#bytes };
    if (last.bytes === 0) return true;
    this.#bytes = 0;
    const waiting = this.#runs ?? NO_RUNS;
    if (waiting.length === 0) return this.#transfer(last, this.#places > 1);
    this.#runs = null;
    return this.#gather([...waiting, last]);
  }

  /** Reads runs that are kept together: at once, or one after the other as far as memory goes. */
  #gather(runs: readonly KeptRun[]): boolean {
    const bytes = runs.reduce((sum, run) => sum + run.bytes, 0);
    if (this.#memory.kept!.gather(runs, this.#data.subarray(this.done, this.done + bytes))) {
      this.done += bytes;
      return true;
    }
    return runs.every((run) => this.#transfer(run, true));
  }

  /** One run: by how it is kept where it is not known to be one piece otherwise. */
  #transfer({ pa, bytes }: KeptRun, kept: boolean): boolean {
    const part = this.#data.subarray(this.done, this.done + bytes);
    const memory = kept ? this.#memory.kept! : this.#memory;
    const reached = this.#write ? memory.write(pa, part) : memory.read(pa, part);
    if (reached) this.done += bytes;
    return reached;
  }

  /** Ends the transfer with what stopped it, if anything did; with 'bus' where memory refuses what has a place. */
  end<Stopped>(stopped: Stopped): { readonly done: number; readonly stopped: Stopped | 'bus' } {
    const reached = this.flush();
    return { done: this.done, stopped: reached ? stopped : 'bus' };
  }
}
