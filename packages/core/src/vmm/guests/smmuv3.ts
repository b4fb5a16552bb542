import { lo32 } from '../../base/u64.ts';
import { CR0, CR1, OFFSET } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

// A guest with an SMMUv3, as short as a driver for it can be: it brings the SMMU up, gives a stream tables, and says
// when they change. Sections are those of Arm IHI 0070.

const QUEUE_LOG2 = 7;
const STREAMS_LOG2 = 8;
/** Inner Shareable, write-back: how the SMMU reads tables and queues (§6.3.11). */
const CACHED = 0xd75n;

/** VMSAv8-64 of 4 KiB pages (Arm DDI 0487, D8.3): Inner Shareable, accessed, not global, EL0 may. */
const FORMAT = {
  levels: 4,
  tableBits: 3n,
  pageBits: 3n | (1n << 6n) | (3n << 8n) | (1n << 10n) | (1n << 11n),
};

export class SmmuGuest {
  readonly pages: GuestPages;
  readonly #smmu: RegisterBus;
  readonly #streams: number;
  readonly #commands: number;
  readonly #events: number;
  #prod = 0;
  #eventsTaken = 0;

  /** Brings the SMMU up (§6.3.9, and drivers/iommu/arm/arm-smmu-v3 arm_smmu_device_reset()). */
  constructor(pages: GuestPages, smmu: RegisterBus) {
    this.pages = pages;
    this.#smmu = smmu;
    this.#streams = pages.take(2 ** STREAMS_LOG2 / 64);
    this.#commands = pages.take();
    this.#events = pages.take();
    this.#set(OFFSET.CR0, 0n);
    this.#set(OFFSET.CR1, CACHED & BigInt(CR1.$.writable[0]!));
    this.#setAddress(OFFSET.STRTAB_BASE, this.#streams);
    this.#set(OFFSET.STRTAB_BASE_CFG, BigInt(STREAMS_LOG2));
    this.#setAddress(OFFSET.CMDQ_BASE, this.#commands, QUEUE_LOG2);
    this.#setAddress(OFFSET.EVENTQ_BASE, this.#events, QUEUE_LOG2);
    this.#enable(CR0.CMDQEN.inPlace);
    this.command(0x04n, 31n); // CMD_CFGI_ALL
    this.command(0x30n); // CMD_TLBI_NSNH_ALL
    this.sync();
    this.#enable(CR0.CMDQEN.inPlace | CR0.EVENTQEN.inPlace);
    this.#enable(CR0.CMDQEN.inPlace | CR0.EVENTQEN.inPlace | CR0.SMMUEN.inPlace);
  }

  #set(offset: number, value: bigint): void {
    this.#smmu.writeRegister(offset, 4, value);
  }

  #setAddress(offset: number, address: number, log2 = 0): void {
    this.#smmu.writeRegister(offset, 8, BigInt(address + log2));
  }

  #enable(bits: number): void {
    this.#set(OFFSET.CR0, BigInt(bits));
    while (this.#smmu.readRegister(OFFSET.CR0ACK, 4) !== BigInt(bits));
  }

  // ---- what a driver does then ----

  /** An address space: tables, and the context descriptor that leads to them (§5.4). */
  addressSpace(asid: number): { readonly tables: GuestPageTable; readonly cd: number } {
    const tables = new GuestPageTable(this.pages, FORMAT);
    const cd = this.pages.take();
    // T0SZ 16, no TTB1, valid, 48-bit IPS, AArch64, faults recorded and aborted.
    const word = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (3n << 45n);
    this.pages.store(cd + 8, BigInt(tables.root));
    this.pages.store(cd + 24, 0xffn);
    this.pages.store(cd, word | (BigInt(asid) << 48n));
    return { tables, cd };
  }

  /** Lets a stream translate by a context descriptor (§5.2). */
  attach(sid: number, cd: number): void {
    const ste = this.#streams + sid * 64;
    // Write-back, Inner Shareable fetches of the CD; full ATS.
    this.pages.store(ste + 8, (1n << 2n) | (1n << 4n) | (3n << 6n) | (1n << 28n));
    this.pages.store(ste, 1n | (5n << 1n) | BigInt(cd));
    this.command(0x03n | (BigInt(sid) << 32n), 1n); // CMD_CFGI_STE
    this.sync();
  }

  detach(sid: number): void {
    this.pages.store(this.#streams + sid * 64, 0n);
    this.command(0x03n | (BigInt(sid) << 32n), 1n);
    this.sync();
  }

  /** An entry of a page has changed: the SMMU's TLB, and the device's (§4.4.2, §4.5.1). */
  invalidate(sid: number, asid: number, iova: bigint): void {
    this.command(0x12n | (BigInt(asid) << 48n), iova | 1n);
    this.command(0x40n | (BigInt(sid) << 32n), iova);
    this.sync();
  }

  command(low: bigint, high = 0n): void {
    const slot = this.#commands + (this.#prod % 2 ** QUEUE_LOG2) * 16;
    this.pages.store(slot, low);
    this.pages.store(slot + 8, high);
    this.#prod = (this.#prod + 1) % 2 ** (QUEUE_LOG2 + 1);
  }

  /** CMD_SYNC, and waits until it is consumed; CMDQ_CONS.ERR where the queue has stopped (§7.1). */
  sync(): number {
    this.command(0x46n);
    this.#set(OFFSET.CMDQ_PROD, BigInt(this.#prod));
    for (;;) {
      const cons = lo32(this.#smmu.readRegister(OFFSET.CMDQ_CONS, 4));
      const error = (cons >>> 24) & 0x7f;
      if (error !== 0 || (cons & 0xf_ffff) === this.#prod) return error;
    }
  }

  /** The next event record, as four 64-bit words; null where there is none (§7.3). */
  event(): readonly bigint[] | null {
    const prod = lo32(this.#smmu.readRegister(OFFSET.EVENTQ_PROD, 4)) & 0x7fff_ffff;
    if (prod === this.#eventsTaken) return null;
    const at = this.#events + (this.#eventsTaken % 2 ** QUEUE_LOG2) * 32;
    this.#eventsTaken = (this.#eventsTaken + 1) % 2 ** (QUEUE_LOG2 + 1);
    this.#set(OFFSET.EVENTQ_CONS, BigInt(this.#eventsTaken));
    return [0, 8, 16, 24].map((offset) => this.pages.load(at + offset));
  }
}
