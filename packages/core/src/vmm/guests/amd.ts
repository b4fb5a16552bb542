import { readField } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { PPR_RECORD } from '../../iommu/amd/spec/events.ts';
import { OFFSET } from '../../iommu/amd/spec/registers.ts';
import type { GuestIommu, GuestPageRequest, GuestSpace } from './guest-iommu.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

// A guest with an AMD IOMMU, as short as a driver for it can be: it brings the IOMMU up, gives PASIDs of devices guest
// tables, says when they change, and answers page requests. Sections are those of AMD 48882.

/** Guest tables of 4 KiB pages, 4 levels (§2.2.6): present, writable, user, accessed; pages dirty as well. */
const FORMAT = { levels: 4, tableBits: 0x27n, pageBits: 0x67n };
/** Rings of 256 entries of 16 bytes. */
const RING_LOG2 = 8n;
const RING_BYTES = 4096;
/** One page of device table entries. */
const DEVICES = 128;
/** V and TV: an entry that translates, and has nothing. Without V everything passes. */
const BLOCKED = 3n;
/** IommuEn, EventLogEn, CmdBufEn, PPRLogEn, PPREn, GTEn */
const CONTROL_ON = 1n | (1n << 2n) | (1n << 12n) | (1n << 13n) | (1n << 15n) | (1n << 16n);
/** All of an address space: S with every bit of the address that counts. */
const EVERYTHING = 0x7fff_ffff_ffff_f001n;

export class AmdGuest implements GuestIommu {
  readonly pages: GuestPages;
  readonly #iommu: RegisterBus;
  readonly #deviceTable: number;
  readonly #commands: number;
  readonly #requests: number;
  readonly #semaphore: number;
  /** GCR3 tables of devices, of PASIDs 0 to 511. A device's domain id is its own id and 1. */
  readonly #gcr3 = new Map<number, number>();
  #spaces = 0;
  #tail = 0;
  #waits = 0n;

  /** Brings the IOMMU up (§2.2, §3.4; drivers/iommu/amd/init.c early_enable_iommu()). */
  constructor(pages: GuestPages, iommu: RegisterBus) {
    this.pages = pages;
    this.#iommu = iommu;
    this.#deviceTable = pages.take();
    this.#commands = pages.take();
    const events = pages.take();
    this.#requests = pages.take();
    this.#semaphore = pages.take();
    for (let id = 0; id < DEVICES; id++) this.pages.store(this.#deviceTable + id * 32, BLOCKED);
    const ring = (register: number, base: number): void =>
      iommu.writeRegister(register, 8, BigInt(base) | (RING_LOG2 << 56n));
    iommu.writeRegister(OFFSET.CONTROL, 8, 0n);
    iommu.writeRegister(OFFSET.DEV_TAB_BASE, 8, BigInt(this.#deviceTable));
    ring(OFFSET.CMD_BUF_BASE, this.#commands);
    ring(OFFSET.EVT_LOG_BASE, events);
    ring(OFFSET.PPR_LOG_BASE, this.#requests);
    iommu.writeRegister(OFFSET.CONTROL, 8, CONTROL_ON);
    this.command(8n << 60n); // INVALIDATE_IOMMU_ALL
    this.wait();
  }

  space(): GuestSpace {
    this.#spaces++;
    return { tables: new GuestPageTable(this.pages, FORMAT), id: this.#spaces };
  }

  // ---- device table entries and GCR3 tables ----

  attach(device: number, { tables }: GuestSpace, pasid = 0): void {
    this.pages.store(this.#gcr3Of(device) + pasid * 8, BigInt(tables.root) | 1n);
    this.#pasidChanged(device, pasid);
  }

  /** The device's GCR3 table, and its entry with that where it has none yet (§2.2.2): V, TV, GIOV, GV, and PPR. */
  #gcr3Of(device: number): number {
    const known = this.#gcr3.get(device);
    if (known !== undefined) return known;
    const table = this.pages.take();
    this.#gcr3.set(device, table);
    const page = BigInt(table) >> 12n;
    const high = BigInt(device + 1) | (((page >> 3n) & 0xffffn) << 16n) | ((page >> 19n) << 43n);
    this.#storeEntry(device, 3n | (1n << 52n) | (1n << 54n) | (1n << 55n) | ((page & 7n) << 58n), high);
    return table;
  }

  /** The device's entry, with all of its PASIDs, or the GCR3 entry of one. */
  detach(device: number, pasid = 0): void {
    if (pasid === 0) {
      this.#gcr3.delete(device);
      this.#storeEntry(device, BLOCKED, 0n);
      return;
    }
    this.pages.store(this.#gcr3Of(device) + pasid * 8, 0n);
    this.#pasidChanged(device, pasid);
  }

  bypass(device: number): void {
    this.#gcr3.delete(device);
    this.#storeEntry(device, 0n, 0n);
  }

  #storeEntry(device: number, low: bigint, high: bigint): void {
    const entry = this.#deviceTable + device * 32;
    this.pages.store(entry + 8, high);
    this.pages.store(entry, low);
    this.command((2n << 60n) | BigInt(device)); // INVALIDATE_DEVTAB_ENTRY
    this.#invalidateDevice(device, 0, EVERYTHING);
    this.wait();
  }

  /** Everything of a PASID, and its GCR3 entry: S, PDE and GN. */
  #pasidChanged(device: number, pasid: number): void {
    this.command((3n << 60n) | (BigInt(device + 1) << 32n) | BigInt(pasid), EVERYTHING | 6n);
    this.#invalidateDevice(device, pasid, EVERYTHING);
    this.wait();
  }

  /** INVALIDATE_IOMMU_PAGES, and INVALIDATE_IOTLB_PAGES of the device (§2.4.3, §2.4.4). */
  invalidate(device: number, _space: GuestSpace, iova: bigint, pasid = 0): void {
    this.command((3n << 60n) | (BigInt(device + 1) << 32n) | BigInt(pasid), iova | 4n);
    this.#invalidateDevice(device, pasid, iova);
    this.wait();
  }

  #invalidateDevice(device: number, pasid: number, address: bigint): void {
    const number = BigInt(pasid);
    const parts = ((number & 0xffn) << 48n) | (((number >> 8n) & 0xffn) << 16n) | ((number >> 16n) << 56n);
    const low = (4n << 60n) | (BigInt(device) << 32n) | BigInt(device) | parts;
    this.command(low, address | (pasid === 0 ? 0n : 4n));
  }

  // ---- commands ----

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

  // ---- page requests ----

  /** The next record of the PPR log (§2.6.1). */
  pageRequest(): GuestPageRequest | null {
    const head = lo32(this.#iommu.readRegister(OFFSET.PPR_HEAD, 4));
    if (head === lo32(this.#iommu.readRegister(OFFSET.PPR_TAIL, 4))) return null;
    const [low, address] = [0, 8].map((offset) => this.pages.load(this.#requests + head + offset));
    const words = [lo32(low!), hi32(low!)];
    this.#iommu.writeRegister(OFFSET.PPR_HEAD, 4, BigInt((head + 16) % RING_BYTES));
    const pasid =
      readField(PPR_RECORD.PASID_19_16, words) * 0x1_0000 + readField(PPR_RECORD.PASID_15_0, words);
    return {
      device: readField(PPR_RECORD.DeviceID, words),
      pasid: readField(PPR_RECORD.GN, words) === 0 ? 0 : pasid,
      address: address! & ~0xfffn,
      write: readField(PPR_RECORD.WRITE, words) !== 0,
      tag: readField(PPR_RECORD.PRGIndex, words),
    };
  }

  /** COMPLETE_PPR_REQUEST: success, or an invalid request (§2.4.7). */
  answer({ device, pasid, tag }: GuestPageRequest, granted: boolean): void {
    const low = (7n << 60n) | (BigInt(pasid) << 32n) | BigInt(device);
    const code = granted ? 0n : 1n;
    this.command(low, (pasid === 0 ? 0n : 4n) | (BigInt(tag) << 32n) | (code << 44n));
    this.wait();
  }
}
