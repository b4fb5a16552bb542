import { PAGE_SIZE } from '../base/u64.ts';

/**
 * The machine's physical address space as whoever masters the bus sees it: little-endian, at most 52 bits wide, so
 * that an address is exact in a number. An access that meets neither RAM nor a pinned frame answers false; hardware
 * turns that into its external abort.
 */
export interface PhysicalMemory {
  /** Loads the u64 at `pa` (a multiple of 8) as `out[0]` (bits 31:0) and `out[1]` (bits 63:32). */
  load64(pa: number, out: Uint32Array): boolean;
  /** Stores the u64 made of `lo` and `hi` at `pa` (a multiple of 8). */
  store64(pa: number, lo: number, hi: number): boolean;
  /** Fills `into` with the bytes from `pa` on. All or nothing. */
  read(pa: number, into: Uint8Array): boolean;
  /** Stores all of `from` at `pa` on. All or nothing. */
  write(pa: number, from: Uint8Array): boolean;
  /** Where it knows more than addresses: how bytes are kept. */
  readonly kept?: KeptMemory;
}

/** How two places are kept: in different memories, in the same one, or right behind one another in it. */
export const KEPT = { APART: 0, TOGETHER: 1, BEHIND: 2 } as const;
export type Kept = (typeof KEPT)[keyof typeof KEPT];

/** Bytes from `pa` on that are kept in one piece. */
export interface KeptRun {
  readonly pa: number;
  readonly bytes: number;
}

/** Memory by how it is kept: places that are no neighbours as addresses may be neighbours there. */
export interface KeptMemory {
  /** How what ends before `end` and what is at `next` are kept; APART where one of them cannot be reached. */
  relation(end: number, next: number): Kept;
  /** Fills `into` with what is kept at `pa` and behind it, which {@link relation} has found to be one piece. */
  read(pa: number, into: Uint8Array): boolean;
  write(pa: number, from: Uint8Array): boolean;
  /** Fills `into` with runs that are kept together. False where that is not to be had: each may still be read. */
  gather(runs: readonly KeptRun[], into: Uint8Array): boolean;
}

/** RAM of the machine: pages appear, zeroed, where they are first written or allocated. */
export class Ram implements PhysicalMemory {
  readonly #pages = new Map<number, Uint32Array>();

  /** True when the 4 KiB page `page` exists. */
  has(page: number): boolean {
    return this.#pages.has(page);
  }

  /** Makes page `page` exist, zeroed where it is new. */
  add(page: number): Uint32Array {
    let words = this.#pages.get(page);
    if (words === undefined) {
      words = new Uint32Array(PAGE_SIZE / 4);
      this.#pages.set(page, words);
    }
    return words;
  }

  /** Takes page `page` away; later accesses to it abort. */
  remove(page: number): void {
    this.#pages.delete(page);
  }

  /** How many pages exist. */
  get size(): number {
    return this.#pages.size;
  }

  load64(pa: number, out: Uint32Array): boolean {
    const words = this.#pages.get(Math.floor(pa / PAGE_SIZE));
    if (words === undefined) return false;
    const index = (pa % PAGE_SIZE) >>> 2;
    out[0] = words[index]!;
    out[1] = words[index + 1]!;
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    const words = this.#pages.get(Math.floor(pa / PAGE_SIZE));
    if (words === undefined) return false;
    const index = (pa % PAGE_SIZE) >>> 2;
    words[index] = lo;
    words[index + 1] = hi;
    return true;
  }

  read(pa: number, into: Uint8Array): boolean {
    return this.#each(pa, into.length, (bytes, at) => into.set(bytes, at));
  }

  write(pa: number, from: Uint8Array): boolean {
    return this.#each(pa, from.length, (bytes, at) => bytes.set(from.subarray(at, at + bytes.length)));
  }

  #each(pa: number, length: number, visit: (bytes: Uint8Array, at: number) => void): boolean {
    const first = Math.floor(pa / PAGE_SIZE);
    const last = Math.floor((pa + length - 1) / PAGE_SIZE);
    for (let page = first; page <= last; page++) if (!this.#pages.has(page)) return false;
    for (let at = 0; at < length;) {
      const offset = (pa + at) % PAGE_SIZE;
      const bytes = Math.min(PAGE_SIZE - offset, length - at);
      const words = this.#pages.get(Math.floor((pa + at) / PAGE_SIZE))!;
      visit(new Uint8Array(words.buffer, offset, bytes), at);
      at += bytes;
    }
    return true;
  }
}
