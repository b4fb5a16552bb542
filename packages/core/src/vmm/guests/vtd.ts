import { readField, readField64 } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { PAGE_REQ_BYTES, PAGE_REQ_DSC } from '../../iommu/intel/spec/faults.ts';
import { ECAP, OFFSET, PRS } from '../../iommu/intel/spec/registers.ts';
import type { GuestIommu, GuestPageRequest, GuestSpace } from './guest-iommu.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';
import { VtdUnit } from './vtd-unit.ts';

// A guest with a VT-d in scalable mode, as short as a driver for it can be: it brings the unit up, gives PASIDs of devices
// first-stage tables, says when they change, and answers page requests. Sections are those of the VT-d specification.

/** First-stage tables of 4 KiB pages, 4 levels (§9.8): present, writable, user, accessed; pages dirty as well. */
const FORMAT = { levels: 4, tableBits: 0x27n, pageBits: 0x67n };
const REQUESTS_BYTES = 4096;
/** PGTT of a PASID table entry, in place (§9.6). */
const FIRST_STAGE = 1n << 6n;
const PASS_THROUGH = 4n << 6n;

export class VtdGuest implements GuestIommu {
  readonly pages: GuestPages;
  readonly unit: VtdUnit;
  readonly #registers: RegisterBus;
  readonly #requests: number;
  /** DTE, PASIDE and PRE of context entries (§9.4), as far as the unit has them. */
  readonly #contextBits: bigint;
  #domain = 0;

  /** Brings the unit up (§3.4.3, §6.5.2; drivers/iommu/intel/iommu.c init_dmars()). */
  constructor(pages: GuestPages, registers: RegisterBus) {
    this.pages = pages;
    this.#registers = registers;
    const ecap = registers.readRegister(OFFSET.ECAP, 8);
    const has = (field: typeof ECAP.PASID): bigint =>
      BigInt(readField(field, [lo32(ecap), hi32(ecap)]) === 0 ? 0 : 1);
    this.#contextBits = (has(ECAP.DT) << 2n) | (has(ECAP.PASID) << 3n) | (has(ECAP.PRS) << 4n);
    this.#requests = pages.take();
    registers.writeRegister(OFFSET.PQA, 8, BigInt(this.#requests));
    registers.writeRegister(OFFSET.PQH, 8, 0n);
    registers.writeRegister(OFFSET.PQT, 8, 0n);
    this.#clearOverflow();
    this.unit = new VtdUnit(pages, registers, 'scalable');
    this.unit.submit(0x1n | (1n << 4n)); // cc_inv_dsc, global
    this.unit.submit(0x7n | (3n << 4n)); // pc_inv_dsc, global
    this.unit.submit(0x2n | (1n << 4n)); // iotlb_inv_dsc, global
    this.unit.wait();
    this.unit.enable();
  }

  space(): GuestSpace {
    this.#domain++;
    return { tables: new GuestPageTable(this.pages, FORMAT), id: this.#domain };
  }

  // ---- PASID table entries ----

  attach(requesterId: number, { tables, id }: GuestSpace, pasid = 0): void {
    this.#store(requesterId, pasid, 1n | FIRST_STAGE, BigInt(id), BigInt(tables.root));
  }

  detach(requesterId: number, pasid = 0): void {
    this.#store(requesterId, pasid, 0n, 0n, 0n);
  }

  bypass(requesterId: number): void {
    this.#store(requesterId, 0, 1n | PASS_THROUGH, 0n, 0n);
  }

  /** An entry, and what may be cached of it and by it: pc_inv_dsc and p_iotlb_inv_dsc of the PASID (§6.5.2). */
  #store(requesterId: number, pasid: number, word: bigint, domain: bigint, table: bigint): void {
    const entry = this.#entry(requesterId, pasid);
    const before = this.pages.load(entry + 8) & 0xffffn;
    this.pages.store(entry, 0n);
    this.pages.store(entry + 8, domain);
    this.pages.store(entry + 16, table);
    this.pages.store(entry, word);
    for (const did of new Set([before, domain])) {
      this.unit.submit(0x7n | (1n << 4n) | (did << 16n) | (BigInt(pasid) << 32n));
      this.unit.submit(0x6n | (2n << 4n) | (did << 16n) | (BigInt(pasid) << 32n));
    }
    this.unit.wait();
  }

  /** Where the entry of a PASID is; makes the tables on the way. PASID 0 is RID_PASID. */
  #entry(requesterId: number, pasid: number): number {
    const half = this.unit.root + (requesterId >>> 8) * 16 + ((requesterId & 0x80) !== 0 ? 8 : 0);
    const context = this.unit.table(half) + (requesterId & 0x7f) * 32;
    const directory = this.unit.table(context);
    this.pages.store(context, this.pages.load(context) | this.#contextBits);
    return this.unit.table(directory + (pasid >>> 6) * 8) + (pasid & 63) * 64;
  }

  /** p_iotlb_inv_dsc of the page (§6.5.2.4); the host sees to the device's TLB. */
  invalidate(_requesterId: number, { id }: GuestSpace, iova: bigint, pasid = 0): void {
    this.unit.submit(0x6n | (3n << 4n) | (BigInt(id) << 16n) | (BigInt(pasid) << 32n), iova);
    this.unit.wait();
  }

  // ---- page requests ----

  /** The next descriptor of the page request queue (§7.4.1). */
  pageRequest(): GuestPageRequest | null {
    const head = lo32(this.#registers.readRegister(OFFSET.PQH, 8));
    if (head === lo32(this.#registers.readRegister(OFFSET.PQT, 8))) return this.#clearOverflow();
    const words = new Uint32Array(PAGE_REQ_BYTES / 4);
    for (let i = 0; i < words.length; i += 2) {
      const word = this.pages.load(this.#requests + head + i * 4);
      words.set([lo32(word), hi32(word)], i);
    }
    this.#registers.writeRegister(OFFSET.PQH, 8, BigInt((head + PAGE_REQ_BYTES) % REQUESTS_BYTES));
    return {
      device: readField(PAGE_REQ_DSC.RID, words),
      pasid: readField(PAGE_REQ_DSC.PP, words) === 0 ? 0 : readField(PAGE_REQ_DSC.PASID, words),
      address: readField64(PAGE_REQ_DSC.ADDR, words) << 12n,
      write: readField(PAGE_REQ_DSC.WRR, words) !== 0,
      tag: readField(PAGE_REQ_DSC.PRGI, words),
    };
  }

  /** The queue is empty: requests that found no room in it will come again (§7.4.1). */
  #clearOverflow(): null {
    this.#registers.writeRegister(OFFSET.PRS, 4, BigInt(PRS.PRO.inPlace | PRS.PPR.inPlace));
    return null;
  }

  /** page_grp_resp_dsc: success, or an invalid request (§7.6.1). */
  answer({ device, pasid, tag }: GuestPageRequest, granted: boolean): void {
    const code = granted ? 0n : 1n;
    // 9h in bits 3:0, and PP.
    const low = 0x9n | (pasid === 0 ? 0n : 1n << 4n) | (code << 12n);
    this.unit.submit(low | (BigInt(device) << 16n) | (BigInt(pasid) << 32n), BigInt(tag) << 3n);
    this.unit.wait();
  }
}
