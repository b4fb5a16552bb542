import { PAGE_SIZE } from '../base/u64.ts';
import { FrameTable } from './frames.ts';
import { KEPT, Ram, type KeptMemory, type PhysicalMemory } from './physical.ts';

/** RAM of the machine lies from 1 MiB to here; pinned frames of programs lie above. */
const RAM_END_PAGE = (64 * 2 ** 30) / PAGE_SIZE;
const RAM_END = RAM_END_PAGE * PAGE_SIZE;
const RAM_FIRST_PAGE = 2 ** 20 / PAGE_SIZE;

/** Where the host keeps pages that programs have mapped. Offsets in bytes from the first of them. */
export interface SharedPages {
  read(offset: number, into: Uint8Array): boolean;
  write(offset: number, from: Uint8Array): boolean;
}

/** What answers at addresses that are neither RAM nor frames of programs: a BAR of a device. */
export interface MmioWindow {
  /** A physical address. */
  readonly start: number;
  readonly bytes: number;
  /** Offsets in bytes from the start; the access lies within. False: nobody answers. */
  read(offset: number, into: Uint8Array): boolean;
  write(offset: number, from: Uint8Array): boolean;
}

interface SharedRange {
  readonly pa: number;
  readonly bytes: number;
  readonly pages: SharedPages;
}

/** The machine's physical address space: RAM that drivers allocate tables and queues from, and pinned frames. */
export class PhysicalSpace implements PhysicalMemory {
  readonly kept: KeptMemory = {
    relation: (end, next) =>
      end > RAM_END && next >= RAM_END ? this.frames.relation(end, next) : KEPT.APART,
    read: (pa, into) => this.frames.readKept(pa, into),
    write: (pa, from) => this.frames.writeKept(pa, from),
    gather: (runs, into) => this.frames.gatherKept(runs, into),
  };
  readonly ram = new Ram();
  readonly frames = new FrameTable(RAM_END_PAGE);
  readonly #free = new Map<number, number[]>();
  readonly #word = new Uint8Array(8);
  readonly #wordView = new DataView(this.#word.buffer);
  /** RAM whose bytes the host keeps: it is not in `ram` meanwhile. */
  readonly #shared: SharedRange[] = [];
  readonly #windows: MmioWindow[] = [];
  #nextPage = RAM_FIRST_PAGE;

  /**
   * Takes `pages` neighbouring zeroed pages of RAM, aligned to their number rounded up to a power of two.
   * Answers the physical address of the first.
   */
  allocate(pages: number): number {
    const free = this.#free.get(pages)?.pop();
    let first = free;
    if (first === undefined) {
      const alignment = 2 ** Math.ceil(Math.log2(pages));
      first = Math.ceil(this.#nextPage / alignment) * alignment;
      if (first + pages > RAM_END_PAGE) throw new RangeError("the machine's RAM is used up");
      this.#nextPage = first + pages;
    }
    for (let i = 0; i < pages; i++) this.ram.add(first + i);
    return first * PAGE_SIZE;
  }

  /** Gives pages of RAM back. */
  free(pa: number, pages: number): void {
    const first = pa / PAGE_SIZE;
    for (let i = 0; i < pages; i++) this.ram.remove(first + i);
    const list = this.#free.get(pages);
    if (list === undefined) this.#free.set(pages, [first]);
    else list.push(first);
  }

  /**
   * Hands pages of RAM to a host that maps them into programs: their bytes move there, and from then on what a program
   * stores is what everybody reads. Pages that are shared already stay where they are.
   */
  share(pa: number, pages: number, where: SharedPages): void {
    if (this.#sharedAt(pa, 1) !== null) return;
    const bytes = new Uint8Array(pages * PAGE_SIZE);
    this.ram.read(pa, bytes);
    if (!where.write(0, bytes)) return;
    for (let i = 0; i < pages; i++) this.ram.remove(pa / PAGE_SIZE + i);
    this.#shared.push({ pa, bytes: bytes.length, pages: where });
  }

  /** Takes the pages from `pa` on back, if they were shared, with what the programs have left there. */
  unshare(pa: number): void {
    const at = this.#shared.findIndex((range) => range.pa === pa);
    if (at < 0) return;
    const [range] = this.#shared.splice(at, 1);
    const bytes = new Uint8Array(range!.bytes);
    range!.pages.read(0, bytes);
    for (let i = 0; i < bytes.length / PAGE_SIZE; i++) this.ram.add(pa / PAGE_SIZE + i);
    this.ram.write(pa, bytes);
  }

  /** From now on the window answers at its addresses. */
  addWindow(window: MmioWindow): void {
    this.#windows.push(window);
  }

  #windowAt(pa: number, bytes: number): MmioWindow | undefined {
    return this.#windows.find(({ start, bytes: all }) => pa >= start && pa + bytes <= start + all);
  }

  #sharedAt(pa: number, bytes: number): SharedRange | null {
    for (const range of this.#shared)
      if (pa >= range.pa && pa + bytes <= range.pa + range.bytes) return range;
    return null;
  }

  #readShared(pa: number, into: Uint8Array): boolean {
    const range = this.#sharedAt(pa, into.length);
    return range !== null && range.pages.read(pa - range.pa, into);
  }

  #writeShared(pa: number, from: Uint8Array): boolean {
    const range = this.#sharedAt(pa, from.length);
    return range !== null && range.pages.write(pa - range.pa, from);
  }

  load64(pa: number, out: Uint32Array): boolean {
    if (pa < RAM_END && this.ram.load64(pa, out)) return true;
    if (!this.#readElsewhere(pa, this.#word)) return false;
    out[0] = this.#wordView.getUint32(0, true);
    out[1] = this.#wordView.getUint32(4, true);
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (pa < RAM_END && this.ram.store64(pa, lo, hi)) return true;
    this.#wordView.setUint32(0, lo, true);
    this.#wordView.setUint32(4, hi, true);
    return this.#writeElsewhere(pa, this.#word);
  }

  read(pa: number, into: Uint8Array): boolean {
    return (pa < RAM_END && this.ram.read(pa, into)) || this.#readElsewhere(pa, into);
  }

  write(pa: number, from: Uint8Array): boolean {
    return (pa < RAM_END && this.ram.write(pa, from)) || this.#writeElsewhere(pa, from);
  }

  #readElsewhere(pa: number, into: Uint8Array): boolean {
    if (pa < RAM_END ? this.#readShared(pa, into) : this.frames.read(pa, into)) return true;
    const window = this.#windowAt(pa, into.length);
    return window !== undefined && window.read(pa - window.start, into);
  }

  #writeElsewhere(pa: number, from: Uint8Array): boolean {
    if (pa < RAM_END ? this.#writeShared(pa, from) : this.frames.write(pa, from)) return true;
    const window = this.#windowAt(pa, from.length);
    return window !== undefined && window.write(pa - window.start, from);
  }
}
