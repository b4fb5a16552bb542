import { lo32 } from '../../base/u64.ts';
import { FSTS, GCMD, GSTS, OFFSET } from '../../iommu/intel/spec/registers.ts';
import type { GuestPages } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

const QUEUE_BYTES = 4096;
/** IQA.DW: descriptors of 256 bits. */
const WIDE = 1n << 11n;

/** What guests do with a VT-d in every mode: its root table, and its invalidation queue (VT-d §6.5.2, §10.6). */
export class VtdUnit {
  readonly root: number;
  /** Where its invalidation queue is. */
  readonly queue: number;
  readonly #pages: GuestPages;
  readonly #unit: RegisterBus;
  readonly #entryBytes: number;
  readonly #status: number;
  #tail = 0;
  #waits = 0;

  /** Tells the unit of an empty root table, in the `mode` of RTADDR.TTM, and enables its queue. */
  constructor(pages: GuestPages, unit: RegisterBus, mode: 'legacy' | 'scalable') {
    this.#pages = pages;
    this.#unit = unit;
    this.root = pages.take();
    this.queue = pages.take();
    this.#status = pages.take();
    const scalable = mode === 'scalable';
    this.#entryBytes = scalable ? 32 : 16;
    this.#unit.writeRegister(OFFSET.GCMD, 4, 0n);
    unit.writeRegister(OFFSET.FSTS, 4, BigInt(FSTS.$.writable[0]!));
    unit.writeRegister(OFFSET.RTADDR, 8, BigInt(this.root) | (scalable ? 1n << 10n : 0n));
    this.#command(GCMD.SRTP.inPlace, GSTS.RTPS.inPlace);
    unit.writeRegister(OFFSET.IQA, 8, BigInt(this.queue) | (scalable ? WIDE : 0n));
    unit.writeRegister(OFFSET.IQT, 8, 0n);
    this.#command(GCMD.QIE.inPlace, GSTS.QIES.inPlace);
  }

  /** Translation is on from now on. */
  enable(): void {
    this.#command(GCMD.QIE.inPlace | GCMD.TE.inPlace, GSTS.TES.inPlace);
  }

  #command(command: number, status: number): void {
    this.#unit.writeRegister(OFFSET.GCMD, 4, BigInt(command >>> 0));
    while ((lo32(this.#unit.readRegister(OFFSET.GSTS, 4)) & status) === 0);
  }

  /** The table that a pointer leads to; a new one, of `pages`, where there is none. */
  table(pointer: number, pages = 1): number {
    if (this.#pages.load(pointer) === 0n) this.#pages.store(pointer, BigInt(this.#pages.take(pages)) | 1n);
    return this.#pages.addressAt(pointer);
  }

  /** Puts a descriptor into the queue. */
  submit(low: bigint, high = 0n): void {
    this.#pages.store(this.queue + this.#tail, low);
    this.#pages.store(this.queue + this.#tail + 8, high);
    this.#tail = (this.#tail + this.#entryBytes) % QUEUE_BYTES;
  }

  /** inv_wait_dsc with a status, and waits for it (§6.5.2.9); false where the queue has stopped (FSTS.IQE). */
  wait(): boolean {
    this.#waits++;
    this.submit(0x5n | (1n << 5n) | (BigInt(this.#waits) << 32n), BigInt(this.#status));
    this.#unit.writeRegister(OFFSET.IQT, 8, BigInt(this.#tail));
    for (;;) {
      if (lo32(this.#pages.load(this.#status)) === this.#waits) return true;
      if ((lo32(this.#unit.readRegister(OFFSET.FSTS, 4)) & FSTS.IQE.inPlace) !== 0) return false;
    }
  }
}
