import { exact } from '../base/u64.ts';
import type { FileBacking } from '../memory/file.ts';

/** What a host keeps of a file that programs map: one memory for them and for the machine. */
export class MappedFile implements FileBacking {
  #bytes = new Uint8Array(0);
  #view = new DataView(this.#bytes.buffer);

  /** Makes room for a mapping that ends at `end`. */
  growTo(end: bigint): void {
    if (exact(end) <= this.#bytes.length) return;
    const bytes = new Uint8Array(exact(end));
    bytes.set(this.#bytes);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  load32(offset: bigint): number {
    return this.#view.getUint32(exact(offset), true);
  }

  store32(offset: bigint, value: number): void {
    this.#view.setUint32(exact(offset), value, true);
  }

  read(offset: bigint, into: Uint8Array): boolean {
    into.set(this.#bytes.subarray(exact(offset), exact(offset) + into.length));
    return true;
  }

  write(offset: bigint, from: Uint8Array): boolean {
    this.growTo(offset + BigInt(from.length));
    this.#bytes.set(from, exact(offset));
    return true;
  }

  mapped(): boolean {
    return false;
  }
}
