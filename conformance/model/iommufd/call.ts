import type { Context } from './context.ts';
import type { Memory } from './memory.ts';

/** struct iommufd_ucmd: one ioctl with its struct, which was copied in once. */
export class Call {
  readonly context: Context;
  readonly memory: Memory;
  /** Where the struct came from. */
  readonly va: bigint;
  /** How long the program says it is. */
  readonly userSize: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(context: Context, va: bigint, userSize: number, bytes: Uint8Array) {
    this.context = context;
    this.memory = context.machine.memory;
    this.va = va;
    this.userSize = userSize;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  u8(at: number): number {
    return this.#view.getUint8(at);
  }

  u16(at: number): number {
    return this.#view.getUint16(at, true);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  u64(at: number): bigint {
    return this.#view.getBigUint64(at, true);
  }

  setU8(at: number, value: number): void {
    this.#view.setUint8(at, value);
  }

  setU32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  setU64(at: number, value: bigint): void {
    this.#view.setBigUint64(at, value, true);
  }

  /** iommufd_ucmd_respond(). */
  respond(): void {
    this.memory.write(this.va, this.#bytes.subarray(0, Math.min(this.userSize, this.#bytes.length)));
  }
}
