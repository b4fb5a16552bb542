import { exact, hi32, lo32, u64 } from '../../base/u64.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';

/** What a guest's programs have of memory: pages, taken one after the other, and 64-bit words in them. */
export class GuestPages {
  readonly memory: PhysicalMemory;
  #next: number;

  /** Pages are taken from `first` on. */
  constructor(memory: PhysicalMemory, first: number) {
    this.memory = memory;
    this.#next = first;
  }

  /** `pages` neighbouring zeroed pages, aligned to their length: the address of the first. */
  take(pages = 1): number {
    const bytes = pages * 4096;
    const at = Math.ceil(this.#next / bytes) * bytes;
    this.#next = at + bytes;
    this.memory.write(at, new Uint8Array(bytes));
    return at;
  }

  /** A page that begins with `text`. */
  page(text: string): number {
    const at = this.take();
    this.write(at, text);
    return at;
  }

  store(at: number, value: bigint): void {
    this.memory.store64(at, lo32(value), hi32(value));
  }

  load(at: number): bigint {
    const pair = new Uint32Array(2);
    this.memory.load64(at, pair);
    return u64(pair[1]!, pair[0]!);
  }

  /** The address of a page that a word holds, without the bits around it. */
  addressAt(at: number): number {
    return addressOf(this.load(at));
  }

  write(at: number, text: string): void {
    this.memory.write(
      at,
      Uint8Array.from(text, (character) => character.charCodeAt(0)),
    );
  }

  text(at: number, length: number): string {
    const bytes = new Uint8Array(length);
    this.memory.read(at, bytes);
    return String.fromCharCode(...bytes);
  }
}

function addressOf(word: bigint): number {
  return exact(word & 0xf_ffff_ffff_f000n);
}

/** What entries say beside an address, and how many levels of tables there are. */
export interface TableFormat {
  readonly levels: number;
  readonly tableBits: bigint;
  readonly pageBits: bigint;
}

/** A page table of 4 KiB pages and 512 entries a level, as Arm, Intel and AMD all have them; they differ in the bits. */
export class GuestPageTable {
  readonly root: number;
  readonly #pages: Pick<GuestPages, 'take' | 'load' | 'store'>;
  readonly #format: TableFormat;

  constructor(pages: Pick<GuestPages, 'take' | 'load' | 'store'>, format: TableFormat) {
    this.#pages = pages;
    this.#format = format;
    this.root = pages.take();
  }

  /** Where the entry of a page is; makes the tables on the way. */
  #entry(iova: bigint): number {
    let table = this.root;
    for (let level = this.#format.levels - 1; level > 0; level--) {
      const at = table + this.#index(iova, level) * 8;
      if (this.#pages.load(at) === 0n)
        this.#pages.store(at, BigInt(this.#pages.take()) | this.#format.tableBits);
      table = addressOf(this.#pages.load(at));
    }
    return table + this.#index(iova, 0) * 8;
  }

  #index(iova: bigint, level: number): number {
    return exact((iova >> BigInt(12 + 9 * level)) & 511n);
  }

  map(iova: bigint, page: number, bits = this.#format.pageBits): void {
    this.#pages.store(this.#entry(iova), BigInt(page) | bits);
  }

  unmap(iova: bigint): void {
    this.#pages.store(this.#entry(iova), 0n);
  }
}
