import type { FileBacking } from '../memory/file.ts';
import type { BarHandler } from './bar.ts';

/** Where the bytes of a {@link BarMemory} are. */
export type BarStorage = Pick<FileBacking, 'read' | 'write'>;

/**
 * Memory behind a BAR. Programs that map it store there at any moment and nobody is told; so the device looks when it is
 * polled, and compares with what it last knew. At first the bytes are its own; {@link share} moves them to where programs
 * see them.
 */
export class BarMemory {
  readonly size: number;
  readonly #own: Uint8Array;
  #storage: { readonly bytes: BarStorage; readonly offset: bigint } | null = null;
  readonly #word = new Uint8Array(4);
  readonly #wordView = new DataView(this.#word.buffer);

  constructor(size: number) {
    this.size = size;
    this.#own = new Uint8Array(size);
  }

  /** True while the bytes are where programs see them. */
  get shared(): boolean {
    return this.#storage !== null;
  }

  /** Moves the bytes to `storage`, from `offset` on: the pages of an open file that programs map. */
  share(storage: BarStorage, offset: bigint): void {
    const bytes = new Uint8Array(this.size);
    this.read(0, bytes);
    storage.write(offset, bytes);
    this.#storage = { bytes: storage, offset };
  }

  /** Takes the bytes back: the file that showed them is going away. */
  unshare(): void {
    if (this.#storage === null) return;
    const bytes = new Uint8Array(this.size);
    if (this.#storage.bytes.read(this.#storage.offset, bytes)) this.#own.set(bytes);
    this.#storage = null;
  }

  /** What cannot be reached reads as ones, and stores to it are lost. */
  read(offset: number, into: Uint8Array): void {
    if (this.#storage === null) into.set(this.#own.subarray(offset, offset + into.length));
    else if (!this.#storage.bytes.read(this.#storage.offset + BigInt(offset), into)) into.fill(0xff);
  }

  write(offset: number, from: Uint8Array): void {
    if (this.#storage === null) this.#own.set(from, offset);
    else this.#storage.bytes.write(this.#storage.offset + BigInt(offset), from);
  }

  get32(offset: number): number {
    this.read(offset, this.#word);
    return this.#wordView.getUint32(0, true);
  }

  set32(offset: number, value: number): void {
    this.#wordView.setUint32(0, value, true);
    this.write(offset, this.#word);
  }

  /** Loads and stores, as a BAR's handler; `stored` is called after each store. */
  handler(stored: () => void): BarHandler {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    return {
      read: (offset, size) => {
        bytes.fill(0);
        this.read(offset, bytes.subarray(0, size));
        return view.getBigUint64(0, true);
      },
      write: (offset, size, value) => {
        view.setBigUint64(0, value, true);
        this.write(offset, bytes.subarray(0, size));
        stored();
      },
    };
  }
}
