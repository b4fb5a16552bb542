import { assert } from '../base/assert.ts';
import { PAGE_SIZE, pageAddress } from '../base/u64.ts';
import { KEPT, type Kept, type KeptRun } from './physical.ts';
import type { AddressSpace, SharedFile } from './process.ts';

// Pinned pages of programs, as frames of the machine's physical address space. A frame knows where its bytes are: in a
// file, or in the memory of the process that mapped it. Frames are handed out in chunks of 512 pages that share their
// backing, so a mapping of a terabyte costs a table entry for 2 MiB of it and not for each page.

const CHUNK_PAGES = 512;

/** What pages are made of. Two pins of the same page of the same backing get the same frame. */
export interface Backing {
  /** Equal for the same pages, and only for them. */
  readonly key: string;
  /** True where neighbouring pages are neighbours in physical memory too: huge pages and files. */
  readonly contiguous: boolean;
  read(offset: bigint, into: Uint8Array): boolean;
  write(offset: bigint, from: Uint8Array): boolean;
  /** AddressSpace.gather(), by offsets. */
  gather(places: Uint32Array, into: Uint8Array): boolean;
  /** Called with the first pin of a chunk of the backing, and after its last. */
  retain(): void;
  release(): void;
}

/** Private memory: reached through the process that mapped it, for as long as it lives. Offsets are addresses. */
export function privateBacking(memory: AddressSpace, contiguous: boolean): Backing {
  return {
    key: `mm:${memory.id}${contiguous ? '/huge' : ''}`,
    contiguous,
    read: (offset, into) => memory.readPinned(offset, into),
    write: (offset, from) => memory.writePinned(offset, from),
    gather: (places, into) => memory.gather(places, into),
    retain: () => {},
    release: () => {},
  };
}

/** Pages of a file that programs share: they outlive the mapping and the program. Offsets are the file's. */
export function fileBacking(file: SharedFile): Backing {
  return {
    key: `file:${file.key}`,
    contiguous: true,
    read: (offset, into) => file.read(offset, into),
    write: (offset, from) => file.write(offset, from),
    gather: () => false,
    retain: () => file.retain(),
    release: () => file.release(),
  };
}

interface Chunk {
  readonly backing: Backing;
  readonly id: string;
  /** Page number in the backing of the chunk's first page. */
  readonly firstPage: number;
  readonly firstFrame: number;
  /** Frames from one page to the next: 1, or 2 where pages must not be neighbours. */
  readonly stride: 1 | 2;
  /** Pins on every page, and beside them pins on single pages. */
  uniform: number;
  single: Uint32Array | null;
  singleTotal: number;
}

/**
 * Where frames lie `step` bytes from one another, and their pages are pinned and follow one another: the frame of one
 * that has another behind it starts at least 0 and less than `bytes` from `start` on.
 */
interface Ladder {
  readonly start: number;
  readonly step: number;
  readonly bytes: number;
}
const NO_LADDER: Ladder = { start: 0, step: PAGE_SIZE, bytes: 0 };

/** A run of frames that follow one another. */
export type FrameRun = (firstFrame: number, frames: number) => void;

function ladderOf({ firstFrame, stride }: Chunk): Ladder {
  const step = stride * PAGE_SIZE;
  return { start: firstFrame * PAGE_SIZE, step, bytes: (CHUNK_PAGES - 1) * step };
}

/**
 * The table of frames. Frame numbers start at `firstFrame`; a chunk is aligned to 512 frames, so that a huge page is
 * aligned as it is in physical memory.
 */
export class FrameTable {
  readonly #firstFrame: number;
  readonly #chunks = new Map<string, Chunk>();
  readonly #slots: (Chunk | null)[] = [];
  readonly #freeSlots: number[] = [];
  /** Of the chunk that {@link relation} has met last: most pages follow another one of it. */
  #ladder = NO_LADDER;
  /** Pins that are held now, counting a page pinned twice as two. */
  pinned = 0;

  constructor(firstFrame: number) {
    assert(firstFrame % CHUNK_PAGES === 0, 'frames start at a chunk boundary');
    this.#firstFrame = firstFrame;
  }

  /** Chunks that hold at least one pinned page. */
  get chunks(): number {
    return this.#chunks.size;
  }

  /** Pins `pages` pages of `backing` from page number `firstPage` on. */
  pin(backing: Backing, firstPage: number, pages: number): void {
    this.pinned += pages;
    this.#each(firstPage, pages, (chunkNumber, from, count) => {
      const chunk = this.#chunk(backing, chunkNumber);
      if (count === CHUNK_PAGES) chunk.uniform++;
      else this.#addSingle(chunk, from, count, 1);
    });
  }

  /** Undoes {@link pin} for the same pages; the ranges need not be cut as they were pinned. */
  unpin(backing: Backing, firstPage: number, pages: number): void {
    this.pinned -= pages;
    this.#ladder = NO_LADDER;
    this.#each(firstPage, pages, (chunkNumber, from, count) => {
      const chunk = this.#chunks.get(`${backing.key}/${chunkNumber}`);
      assert(chunk !== undefined, 'unpin of a page that is not pinned');
      if (count === CHUNK_PAGES && chunk.uniform > 0) chunk.uniform--;
      else this.#subtract(chunk, from, count);
      if (chunk.uniform === 0 && chunk.singleTotal === 0) this.#free(chunk);
    });
  }

  /** How often page `page` of `backing` is pinned. */
  pinCount(backing: Backing, page: number): number {
    const chunk = this.#chunks.get(`${backing.key}/${Math.floor(page / CHUNK_PAGES)}`);
    return chunk === undefined ? 0 : chunk.uniform + (chunk.single?.[page % CHUNK_PAGES] ?? 0);
  }

  /** The frame of page `page` of `backing`, or -1 where the page is not pinned. */
  frameOf(backing: Backing, page: number): number {
    const chunk = this.#chunks.get(`${backing.key}/${Math.floor(page / CHUNK_PAGES)}`);
    if (chunk === undefined) return -1;
    const at = page % CHUNK_PAGES;
    if (chunk.uniform + (chunk.single?.[at] ?? 0) === 0) return -1;
    return chunk.firstFrame + at * chunk.stride;
  }

  /** Visits the frames of pinned pages in order, neighbours together. */
  eachRun(backing: Backing, firstPage: number, pages: number, visit: FrameRun): void {
    let start = -1;
    let length = 0;
    const add = (frame: number, count: number): void => {
      if (length > 0 && start + length === frame) {
        length += count;
        return;
      }
      if (length > 0) visit(start, length);
      start = frame;
      length = count;
    };
    this.#each(firstPage, pages, (chunkNumber, from, count) => {
      const chunk = this.#chunks.get(`${backing.key}/${chunkNumber}`);
      assert(chunk !== undefined, 'frames of pages that are not pinned');
      if (chunk.stride === 1) add(chunk.firstFrame + from, count);
      else for (let i = 0; i < count; i++) add(chunk.firstFrame + (from + i) * 2, 1);
    });
    if (length > 0) visit(start, length);
  }

  /** Copies bytes out of frames from physical address `pa` on; false where a frame is not pinned or not reachable. */
  read(pa: number, into: Uint8Array): boolean {
    return this.#access(pa, into, (backing, offset, bytes) => backing.read(offset, bytes));
  }

  /** Copies bytes into frames. */
  write(pa: number, from: Uint8Array): boolean {
    return this.#access(pa, from, (backing, offset, bytes) => backing.write(offset, bytes));
  }

  /** KeptMemory.relation(), of frames. */
  relation(end: number, next: number): Kept {
    const { start, step, bytes } = this.#ladder;
    const at = end - PAGE_SIZE - start;
    const climbs = next - end === step - PAGE_SIZE && (at & (step - 1)) === 0;
    if (climbs && at >= 0 && at < bytes) return KEPT.BEHIND;
    return this.#relation(end, next);
  }

  #relation(end: number, next: number): Kept {
    const before = Math.floor((end - 1) / PAGE_SIZE);
    const after = Math.floor(next / PAGE_SIZE);
    const [one, other] = [this.#chunkOf(before), this.#chunkOf(after)];
    if (one === null || other === null) return KEPT.APART;
    if (one !== other && one.backing.key !== other.backing.key) return KEPT.APART;
    const page = this.#pinnedPage(one, before);
    const nextPage = this.#pinnedPage(other, after);
    if (page < 0 || nextPage < 0) return KEPT.APART;
    // As words: % of what is no small integer is a call.
    const whole = ((end | next) & (PAGE_SIZE - 1)) === 0;
    if (one === other && one.uniform > 0) this.#ladder = ladderOf(one);
    return whole && nextPage === page + 1 ? KEPT.BEHIND : KEPT.TOGETHER;
  }

  /** Fills `into` from the backing, from the page of `pa` on. */
  readKept(pa: number, into: Uint8Array): boolean {
    const chunk = this.#chunkOf(Math.floor(pa / PAGE_SIZE));
    return chunk !== null && chunk.backing.read(this.#keptAt(chunk, pa), into);
  }

  writeKept(pa: number, from: Uint8Array): boolean {
    const chunk = this.#chunkOf(Math.floor(pa / PAGE_SIZE));
    return chunk !== null && chunk.backing.write(this.#keptAt(chunk, pa), from);
  }

  /** KeptMemory.gather(), of frames. */
  gatherKept(runs: readonly KeptRun[], into: Uint8Array): boolean {
    const places = new Uint32Array(runs.length * 3);
    let at = 0;
    for (const { pa, bytes } of runs) {
      const page = this.#keptPage(this.#chunkOf(Math.floor(pa / PAGE_SIZE))!, pa);
      places[at++] = (page << 12) | (pa & (PAGE_SIZE - 1));
      places[at++] = page / 0x10_0000;
      places[at++] = bytes;
    }
    return this.#chunkOf(Math.floor(runs[0]!.pa / PAGE_SIZE))!.backing.gather(places, into);
  }

  #keptPage(chunk: Chunk, pa: number): number {
    return chunk.firstPage + (Math.floor(pa / PAGE_SIZE) - chunk.firstFrame) / chunk.stride;
  }

  #keptAt(chunk: Chunk, pa: number): bigint {
    return pageAddress(this.#keptPage(chunk, pa)) + BigInt(pa & (PAGE_SIZE - 1));
  }

  #chunkOf(frame: number): Chunk | null {
    return this.#slots[Math.floor((frame - this.#firstFrame) / CHUNK_PAGES)] ?? null;
  }

  /** The page of the backing that a frame is, or -1 where it is not pinned. */
  #pinnedPage(chunk: Chunk, frame: number): number {
    const index = (frame - chunk.firstFrame) / chunk.stride;
    if (!Number.isInteger(index) || chunk.uniform + (chunk.single?.[index] ?? 0) === 0) return -1;
    return chunk.firstPage + index;
  }

  #access(
    pa: number,
    data: Uint8Array,
    copy: (b: Backing, offset: bigint, bytes: Uint8Array) => boolean,
  ): boolean {
    for (let at = 0; at < data.length;) {
      const frame = Math.floor((pa + at) / PAGE_SIZE);
      const inPage = (pa + at) % PAGE_SIZE;
      const chunk = this.#chunkOf(frame);
      const page = chunk === null ? -1 : this.#pinnedPage(chunk, frame);
      if (chunk === null || page < 0) return false;
      let bytes = PAGE_SIZE - inPage;
      if (chunk.stride === 1) {
        // As many neighbouring pinned pages as the access needs go in one copy.
        let next = page - chunk.firstPage + 1;
        while (
          at + bytes < data.length &&
          next < CHUNK_PAGES &&
          chunk.uniform + (chunk.single?.[next] ?? 0) > 0
        ) {
          bytes += PAGE_SIZE;
          next++;
        }
      }
      bytes = Math.min(bytes, data.length - at);
      const offset = pageAddress(page) + BigInt(inPage);
      if (!copy(chunk.backing, offset, data.subarray(at, at + bytes))) return false;
      at += bytes;
    }
    return true;
  }

  #each(firstPage: number, pages: number, visit: (chunk: number, from: number, count: number) => void): void {
    const end = firstPage + pages;
    for (let page = firstPage; page < end;) {
      const from = page % CHUNK_PAGES;
      const count = Math.min(CHUNK_PAGES - from, end - page);
      visit((page - from) / CHUNK_PAGES, from, count);
      page += count;
    }
  }

  #chunk(backing: Backing, chunkNumber: number): Chunk {
    const id = `${backing.key}/${chunkNumber}`;
    let chunk = this.#chunks.get(id);
    if (chunk !== undefined) return chunk;
    const stride = backing.contiguous ? 1 : 2;
    const slot = this.#allocateSlots(stride);
    chunk = {
      backing,
      id,
      firstPage: chunkNumber * CHUNK_PAGES,
      firstFrame: this.#firstFrame + slot * CHUNK_PAGES,
      stride,
      uniform: 0,
      single: null,
      singleTotal: 0,
    };
    for (let i = 0; i < stride; i++) this.#slots[slot + i] = chunk;
    this.#chunks.set(id, chunk);
    backing.retain();
    return chunk;
  }

  #allocateSlots(count: number): number {
    if (count === 1) {
      const free = this.#freeSlots.pop();
      if (free !== undefined) return free;
    } else {
      // Freed pairs come back next to each other on the stack.
      const [a, b] = [this.#freeSlots.at(-1), this.#freeSlots.at(-2)];
      if (a !== undefined && b === a + 1) {
        this.#freeSlots.length -= 2;
        return a;
      }
    }
    const slot = this.#slots.length;
    for (let i = 0; i < count; i++) this.#slots.push(null);
    return slot;
  }

  #free(chunk: Chunk): void {
    const slot = (chunk.firstFrame - this.#firstFrame) / CHUNK_PAGES;
    for (let i = chunk.stride - 1; i >= 0; i--) {
      this.#slots[slot + i] = null;
      this.#freeSlots.push(slot + i);
    }
    this.#chunks.delete(chunk.id);
    chunk.backing.release();
  }

  #addSingle(chunk: Chunk, from: number, count: number, delta: number): void {
    chunk.single ??= new Uint32Array(CHUNK_PAGES);
    for (let i = from; i < from + count; i++) chunk.single[i]! += delta;
    chunk.singleTotal += delta * count;
  }

  #subtract(chunk: Chunk, from: number, count: number): void {
    const short = (): boolean => {
      if (chunk.single === null) return true;
      for (let i = from; i < from + count; i++) if (chunk.single[i] === 0) return true;
      return false;
    };
    // A range that was pinned as part of a whole chunk goes page by page: the whole-chunk pin is split first.
    while (short()) {
      assert(chunk.uniform > 0, 'unpin of a page that is not pinned');
      chunk.uniform--;
      this.#addSingle(chunk, 0, CHUNK_PAGES, 1);
    }
    this.#addSingle(chunk, from, count, -1);
  }
}
