import { PAGE_SIZE } from '../base/u64.ts';
import { FrameTable } from './frames.ts';
import { Ram, type PhysicalMemory } from './physical.ts';

/** RAM of the machine lies from 1 MiB to here; pinned frames of programs lie above. */
const RAM_END_PAGE = (64 * 2 ** 30) / PAGE_SIZE;
const RAM_FIRST_PAGE = 2 ** 20 / PAGE_SIZE;

/** The machine's physical address space: RAM that drivers allocate tables and queues from, and pinned frames. */
export class PhysicalSpace implements PhysicalMemory {
  readonly ram = new Ram();
  readonly frames = new FrameTable(RAM_END_PAGE);
  readonly #free = new Map<number, number[]>();
  readonly #word = new Uint8Array(8);
  readonly #wordView = new DataView(this.#word.buffer);
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

  load64(pa: number, out: Uint32Array): boolean {
    if (pa < RAM_END_PAGE * PAGE_SIZE) return this.ram.load64(pa, out);
    if (!this.frames.read(pa, this.#word)) return false;
    out[0] = this.#wordView.getUint32(0, true);
    out[1] = this.#wordView.getUint32(4, true);
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (pa < RAM_END_PAGE * PAGE_SIZE) return this.ram.store64(pa, lo, hi);
    this.#wordView.setUint32(0, lo, true);
    this.#wordView.setUint32(4, hi, true);
    return this.frames.write(pa, this.#word);
  }

  read(pa: number, into: Uint8Array): boolean {
    return pa < RAM_END_PAGE * PAGE_SIZE ? this.ram.read(pa, into) : this.frames.read(pa, into);
  }

  write(pa: number, from: Uint8Array): boolean {
    return pa < RAM_END_PAGE * PAGE_SIZE ? this.ram.write(pa, from) : this.frames.write(pa, from);
  }
}
