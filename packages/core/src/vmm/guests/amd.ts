import { lo32 } from '../../base/u64.ts';
import { OFFSET } from '../../iommu/amd/spec/registers.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

// A guest with an AMD IOMMU, as short as a driver for it can be: it brings the IOMMU up, gives a device guest tables, and
// says when they change. Sections are those of AMD 48882.

/** Guest tables of 4 KiB pages, 4 levels (§2.2.6): present, writable, user, accessed; pages dirty as well. */
const FORMAT = { levels: 4, tableBits: 0x27n, pageBits: 0x67n };
/** Rings of 256 entries of 16 bytes. */
const RING_LOG2 = 8n;
const RING_BYTES = 4096;
const CONTROL_ON = 1n | (1n << 2n) | (1n << 12n) | (1n << 16n); // IommuEn, EventLogEn, CmdBufEn, GTEn

/** An address space: tables, and the GCR3 table that leads to them for PASID 0. */
export interface AmdSpace {
  readonly tables: GuestPageTable;
  readonly gcr3: number;
}

export class AmdGuest {
  readonly pages: GuestPages;
  readonly #iommu: RegisterBus;
  readonly #deviceTable: number;
  readonly #commands: number;
  readonly #semaphore: number;
  #tail = 0;
  #waits = 0n;

  /** Brings the IOMMU up (§2.2, §3.4; drivers/iommu/amd/init.c early_enable_iommu()). */
  constructor(pages: GuestPages, iommu: RegisterBus) {
    this.pages = pages;
    this.#iommu = iommu;
    this.#deviceTable = pages.take();
    this.#commands = pages.take();
    const events = pages.take();
    this.#semaphore = pages.take();
    // One page: 128 devices. An entry without V lets everything pass; these translate, and have nothing.
    for (let id = 0; id < 128; id++) this.pages.store(this.#deviceTable + id * 32, 3n);
    iommu.writeRegister(OFFSET.DEV_TAB_BASE, 8, BigInt(this.#deviceTable));
    iommu.writeRegister(OFFSET.CMD_BUF_BASE, 8, BigInt(this.#commands) | (RING_LOG2 << 56n));
    iommu.writeRegister(OFFSET.EVT_LOG_BASE, 8, BigInt(events) | (RING_LOG2 << 56n));
    iommu.writeRegister(OFFSET.CONTROL, 8, CONTROL_ON);
    this.command(8n << 60n); // INVALIDATE_IOMMU_ALL
    this.wait();
  }

  addressSpace(): AmdSpace {
    const tables = new GuestPageTable(this.pages, FORMAT);
    const gcr3 = this.pages.take();
    this.pages.store(gcr3, BigInt(tables.root) | 1n);
    return { tables, gcr3 };
  }

  /** Lets a device translate by guest tables: V, TV, GIOV, GV, the GCR3 table and a domain id (§2.2.2). */
  attach(device: number, { gcr3 }: AmdSpace, domain: number): void {
    const page = BigInt(gcr3) >> 12n;
    const entry = this.#deviceTable + device * 32;
    this.pages.store(entry + 8, BigInt(domain) | (((page >> 3n) & 0xffffn) << 16n) | ((page >> 19n) << 43n));
    this.pages.store(entry, 3n | (1n << 54n) | (1n << 55n) | ((page & 7n) << 58n));
    this.#entryChanged(device);
  }

  detach(device: number): void {
    this.pages.store(this.#deviceTable + device * 32, 3n);
    this.#entryChanged(device);
  }

  #entryChanged(device: number): void {
    this.command((2n << 60n) | BigInt(device)); // INVALIDATE_DEVTAB_ENTRY
    this.wait();
  }

  /** An entry of a page has changed: INVALIDATE_IOMMU_PAGES, and INVALIDATE_IOTLB_PAGES of the device (§2.4.3, §2.4.4). */
  invalidate(device: number, domain: number, iova: bigint): void {
    this.command((3n << 60n) | (BigInt(domain) << 32n), iova | 4n);
    this.command((4n << 60n) | (BigInt(device) << 32n) | BigInt(device), 0x7fff_ffff_ffff_f001n);
    this.wait();
  }

  command(low: bigint, high = 0n): void {
    this.pages.store(this.#commands + this.#tail, low);
    this.pages.store(this.#commands + this.#tail + 8, high);
    this.#tail = (this.#tail + 16) % RING_BYTES;
  }

  /** COMPLETION_WAIT that stores its number, and waits for that (§2.4.1). */
  wait(): void {
    this.#waits++;
    this.command((1n << 60n) | BigInt(this.#semaphore) | 1n, this.#waits);
    this.#iommu.writeRegister(OFFSET.CMD_TAIL, 4, BigInt(this.#tail));
    while (lo32(this.pages.load(this.#semaphore)) !== lo32(this.#waits));
  }
}
