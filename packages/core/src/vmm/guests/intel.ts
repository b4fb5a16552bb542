import { lo32 } from '../../base/u64.ts';
import { GCMD, GSTS, OFFSET } from '../../iommu/intel/spec/registers.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

// A guest with a VT-d in scalable mode, as short as a driver for it can be: it brings the unit up, gives a device a
// first-stage table, and says when that changes. Sections are those of the VT-d specification.

/** First-stage tables of 4 KiB pages, 4 levels (§9.8): present, writable, user, accessed; pages dirty as well. */
const FORMAT = { levels: 4, tableBits: 0x27n, pageBits: 0x67n };
const ENTRY_BYTES = 32;
const QUEUE_BYTES = 4096;
/** All of RID_PASID: what devices without PASID use. */
const PASID = 0;

export class VtdGuest {
  readonly pages: GuestPages;
  readonly #unit: RegisterBus;
  readonly #root: number;
  readonly #queue: number;
  readonly #status: number;
  #tail = 0;
  #waits = 0;

  /** Where its invalidation queue is. */
  get queueAddress(): number {
    return this.#queue;
  }

  /** Brings the unit up (§3.4.3, §6.5.2; drivers/iommu/intel/iommu.c init_dmars()). */
  constructor(pages: GuestPages, unit: RegisterBus) {
    this.pages = pages;
    this.#unit = unit;
    this.#root = pages.take();
    this.#queue = pages.take();
    this.#status = pages.take();
    // Scalable mode; the queue takes descriptors of 256 bits.
    unit.writeRegister(OFFSET.RTADDR, 8, BigInt(this.#root) | (1n << 10n));
    this.#command(GCMD.SRTP.inPlace, GSTS.RTPS.inPlace);
    unit.writeRegister(OFFSET.IQA, 8, BigInt(this.#queue) | (1n << 11n));
    unit.writeRegister(OFFSET.IQT, 8, 0n);
    this.#command(GCMD.QIE.inPlace, GSTS.QIES.inPlace);
    this.submit(0x1n | (1n << 4n)); // cc_inv_dsc, global
    this.submit(0x7n | (3n << 4n)); // pc_inv_dsc, global
    this.submit(0x2n | (1n << 4n)); // iotlb_inv_dsc, global
    this.wait();
    this.#command(GCMD.QIE.inPlace | GCMD.TE.inPlace, GSTS.TES.inPlace);
  }

  #command(command: number, status: number): void {
    this.#unit.writeRegister(OFFSET.GCMD, 4, BigInt(command >>> 0));
    while ((lo32(this.#unit.readRegister(OFFSET.GSTS, 4)) & status) === 0);
  }

  addressSpace(): GuestPageTable {
    return new GuestPageTable(this.pages, FORMAT);
  }

  /** Lets a device translate by first-stage tables: its context entry and PASID table entry (§9.4, §9.6). */
  attach(requesterId: number, tables: GuestPageTable, domain: number): void {
    const entry = this.#pasidEntry(requesterId);
    this.pages.store(entry + 8, BigInt(domain));
    this.pages.store(entry + 16, BigInt(tables.root));
    this.pages.store(entry, 1n | (1n << 6n)); // present, first stage
    this.#pasidChanged(domain);
  }

  /** Takes the table away: what the device reads and writes then is a fault. */
  detach(requesterId: number, domain: number): void {
    this.pages.store(this.#pasidEntry(requesterId), 0n);
    this.#pasidChanged(domain);
  }

  #pasidChanged(domain: number): void {
    this.submit(0x7n | (1n << 4n) | (BigInt(domain) << 16n) | (BigInt(PASID) << 32n)); // pc_inv_dsc of the PASID
    this.submit(0x6n | (2n << 4n) | (BigInt(domain) << 16n) | (BigInt(PASID) << 32n)); // p_iotlb_inv_dsc, all of it
    this.wait();
  }

  /** The PASID table entry of requests without PASID; makes the tables on the way. */
  #pasidEntry(requesterId: number): number {
    const half = this.#root + (requesterId >>> 8) * 16 + ((requesterId & 0x80) !== 0 ? 8 : 0);
    const context = this.#table(half, 1n) + (requesterId & 0x7f) * 32;
    const directory = this.#table(context, 1n);
    return this.#table(directory, 1n) + PASID * 64;
  }

  /** The table that a pointer leads to; a new one where there is none. */
  #table(pointer: number, bits: bigint): number {
    if (this.pages.load(pointer) === 0n) this.pages.store(pointer, BigInt(this.pages.take()) | bits);
    return this.pages.addressAt(pointer);
  }

  /** An entry of a page has changed: p_iotlb_inv_dsc of the page (§6.5.2.4). */
  invalidate(domain: number, iova: bigint): void {
    this.submit(0x6n | (3n << 4n) | (BigInt(domain) << 16n) | (BigInt(PASID) << 32n), iova);
    this.wait();
  }

  /** Puts a descriptor into the queue. */
  submit(low: bigint, high = 0n): void {
    this.pages.store(this.#queue + this.#tail, low);
    this.pages.store(this.#queue + this.#tail + 8, high);
    this.#tail = (this.#tail + ENTRY_BYTES) % QUEUE_BYTES;
  }

  /** inv_wait_dsc with a status, and waits for it (§6.5.2.9); false where the queue has stopped (FSTS.IQE). */
  wait(): boolean {
    this.#waits++;
    this.submit(0x5n | (1n << 5n) | (BigInt(this.#waits) << 32n), BigInt(this.#status));
    this.#unit.writeRegister(OFFSET.IQT, 8, BigInt(this.#tail));
    for (;;) {
      if (lo32(this.pages.load(this.#status)) === this.#waits) return true;
      if ((lo32(this.#unit.readRegister(OFFSET.FSTS, 4)) & 0x10) !== 0) return false;
    }
  }
}
