import { exact } from '../../base/u64.ts';
import type { BarStorage } from '../bar-memory.ts';

/** Pages that a program has mapped: it stores into `bytes`, and nobody is told. */
export class ByteStorage implements BarStorage {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
  }

  read(offset: bigint, into: Uint8Array): boolean {
    const at = exact(offset);
    into.set(this.bytes.subarray(at, at + into.length));
    return true;
  }

  write(offset: bigint, from: Uint8Array): boolean {
    this.bytes.set(from, exact(offset));
    return true;
  }
}
