import { errnoOf } from './errno.ts';
import { PAGE, PAGE_N, wrap, type Memory } from './memory.ts';

const BITS_PER_PAGE = BigInt(PAGE) * 8n;
/** Pages of the bitmap that are pinned at a time. */
const WINDOW_PAGES = 512n;

/** drivers/iommu/iommufd/iova_bitmap.c: a window of the program's bitmap, moved along. */
export class DirtyBitmap {
  readonly #memory: Memory;
  readonly #iova: bigint;
  readonly #length: bigint;
  readonly #shift: bigint;
  readonly #data: bigint;
  readonly #totalIndex: bigint;
  #window = { iova: 0n, length: 0n, offset: 0n, pages: 0n };

  constructor(memory: Memory, iova: bigint, length: bigint, pageSize: bigint, data: bigint) {
    this.#memory = memory;
    this.#iova = iova;
    this.#length = length;
    // __ffs(): the size need not be a power of two.
    this.#shift = BigInt((pageSize & -pageSize).toString(2).length - 1);
    this.#data = data;
    this.#totalIndex = ((length - 1n) >> this.#shift) / 8n + 1n;
  }

  /** iova_bitmap_advance_to(), iova_bitmap_get(). False where there is no such part of the bitmap. */
  #advance(iova: bigint): boolean {
    const index = (wrap(iova - this.#iova) >> this.#shift) / 8n;
    if (index >= this.#totalIndex) return false;
    this.#window.pages = 0n;
    const address = wrap(this.#data + index);
    const offset = address % PAGE_N;
    let pages = (this.#totalIndex - index + PAGE_N - 1n) / PAGE_N + (offset > 0n ? 1n : 0n);
    if (pages > WINDOW_PAGES) pages = WINDOW_PAGES;
    let pinned = 0n;
    const first = address - offset;
    while (pinned < pages && errnoOf(() => this.#memory.page(first + pinned * PAGE_N)) === 0) pinned++;
    if (pinned === 0n) return false;
    const start = this.#iova + ((index * 8n) << this.#shift);
    const bytes = pinned * PAGE_N - offset;
    const rest = this.#totalIndex - index;
    let length = ((rest < bytes ? rest : bytes) * 8n) << this.#shift;
    const last = this.#iova + this.#length - 1n;
    if (start + length - 1n > last) length -= start + length - 1n - last;
    this.#window = { iova: start, length, offset, pages: pinned };
    return true;
  }

  /** iova_bitmap_set(). */
  set(iova: bigint, length: bigint): void {
    for (;;) {
      const inside =
        this.#window.pages > 0n &&
        iova >= this.#window.iova &&
        iova + length <= this.#window.iova + this.#window.length;
      if (!inside && !this.#advance(iova)) return;
      const { iova: start, offset, pages } = this.#window;
      const firstBit = ((iova - start) >> this.#shift) + offset * 8n;
      const lastBit = ((iova + length - 1n - start) >> this.#shift) + offset * 8n;
      const end = lastBit < pages * BITS_PER_PAGE ? lastBit + 1n : pages * BITS_PER_PAGE;
      const base = this.#dataOfWindow();
      for (let bit = firstBit; bit < end; bit++) {
        const at = base + bit / 8n;
        const [byte] = this.#memory.read(at, 1);
        this.#memory.write(at, Uint8Array.of(byte! | (1 << Number(bit % 8n))));
      }
      if (end > lastBit) return;
      const left = (lastBit - end + 1n) << this.#shift;
      iova += length - left;
      length = left;
    }
  }

  /** The first byte of the window's first page. */
  #dataOfWindow(): bigint {
    const index = ((this.#window.iova - this.#iova) >> this.#shift) / 8n;
    return wrap(this.#data + index) - this.#window.offset;
  }
}
