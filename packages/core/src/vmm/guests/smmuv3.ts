import { readField, readField64 } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { EVENT_RECORD } from '../../iommu/arm-smmu-v3/spec/events.ts';
import { CR0, CR1, IDR0, IDR1, OFFSET, STALL_MODEL } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { GuestIommu, GuestPageRequest, GuestSpace } from './guest-iommu.ts';
import { GuestPages, GuestPageTable } from './guest-pages.ts';
import type { RegisterBus } from './register-bus.ts';

// A guest with an SMMUv3, as short as a driver for it can be: it brings the SMMU up, gives streams and their substreams
// tables, says when they change, and resumes what stalls. Sections are those of Arm IHI 0070.

const QUEUE_LOG2 = 7;
const STREAMS_LOG2 = 8;
const STE_BYTES = 64;
/** One page of context descriptors: PASIDs 0 to 63. */
const CDS_LOG2 = 6;
const CD_BYTES = 64;
/** Inner Shareable, write-back: how the SMMU reads tables and queues (§6.3.11). */
const CACHED = 0xd75n;

/** VMSAv8-64 of 4 KiB pages (Arm DDI 0487, D8.3): Inner Shareable, accessed, not global, EL0 may. */
const FORMAT = {
  levels: 4,
  tableBits: 3n,
  pageBits: 3n | (1n << 6n) | (3n << 8n) | (1n << 10n) | (1n << 11n),
};

export class SmmuGuest implements GuestIommu {
  readonly pages: GuestPages;
  readonly #smmu: RegisterBus;
  readonly #streams: number;
  readonly #commands: number;
  readonly #events: number;
  /** log2 of the context descriptors of a stream; they stall where the SMMU does nothing else. */
  readonly #cdsLog2: number;
  readonly #stalls: boolean;
  readonly #ats: boolean;
  readonly #contexts = new Map<number, number>();
  #asid = 0;
  #prod = 0;
  #eventsTaken = 0;

  /** Brings the SMMU up (§6.3.9, and drivers/iommu/arm/arm-smmu-v3 arm_smmu_device_reset()). */
  constructor(pages: GuestPages, smmu: RegisterBus) {
    this.pages = pages;
    this.#smmu = smmu;
    const idr0 = [this.#get(OFFSET.IDR0)];
    this.#stalls = readField(IDR0.STALL_MODEL, idr0) === STALL_MODEL.STALL;
    this.#ats = readField(IDR0.ATS, idr0) !== 0;
    this.#cdsLog2 = Math.min(CDS_LOG2, readField(IDR1.SSIDSIZE, [this.#get(OFFSET.IDR1)]));
    this.#streams = pages.take((2 ** STREAMS_LOG2 * STE_BYTES) / 4096);
    this.#commands = pages.take();
    this.#events = pages.take();
    this.#set(OFFSET.CR0, 0n);
    this.#set(OFFSET.CR1, CACHED & BigInt(CR1.$.writable[0]!));
    this.#setAddress(OFFSET.STRTAB_BASE, this.#streams);
    this.#set(OFFSET.STRTAB_BASE_CFG, BigInt(STREAMS_LOG2));
    this.#setAddress(OFFSET.CMDQ_BASE, this.#commands, QUEUE_LOG2);
    this.#setAddress(OFFSET.EVENTQ_BASE, this.#events, QUEUE_LOG2);
    for (const index of [OFFSET.CMDQ_PROD, OFFSET.CMDQ_CONS, OFFSET.EVENTQ_PROD, OFFSET.EVENTQ_CONS])
      this.#set(index, 0n);
    this.#set(OFFSET.GERRORN, BigInt(this.#get(OFFSET.GERROR)));
    this.#enable(CR0.CMDQEN.inPlace);
    this.command(0x04n, 31n); // CMD_CFGI_ALL
    this.command(0x30n); // CMD_TLBI_NSNH_ALL
    this.sync();
    this.#enable(CR0.CMDQEN.inPlace | CR0.EVENTQEN.inPlace);
    this.#enable(CR0.CMDQEN.inPlace | CR0.EVENTQEN.inPlace | CR0.SMMUEN.inPlace);
  }

  #get(offset: number): number {
    return lo32(this.#smmu.readRegister(offset, 4));
  }

  #set(offset: number, value: bigint): void {
    this.#smmu.writeRegister(offset, 4, value);
  }

  #setAddress(offset: number, address: number, log2 = 0): void {
    this.#smmu.writeRegister(offset, 8, BigInt(address + log2));
  }

  #enable(bits: number): void {
    this.#set(OFFSET.CR0, BigInt(bits));
    while (this.#get(OFFSET.CR0ACK) !== bits);
  }

  // ---- streams and substreams ----

  space(): GuestSpace {
    this.#asid++;
    return { tables: new GuestPageTable(this.pages, FORMAT), id: this.#asid };
  }

  /** A context descriptor of the stream (§5.4), and its STE where it has none yet. */
  attach(sid: number, { tables, id }: GuestSpace, pasid = 0): void {
    const cd = this.#contextsOf(sid) + pasid * CD_BYTES;
    // T0SZ 16, no TTB1, valid, 48-bit IPS, AArch64, faults recorded and aborted, or stalled.
    const word = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (3n << 45n);
    this.pages.store(cd + 8, BigInt(tables.root));
    this.pages.store(cd + 24, 0xffn);
    this.pages.store(cd, word | (this.#stalls ? 1n << 44n : 0n) | (BigInt(id) << 48n));
    this.#contextChanged(sid, pasid);
  }

  #contextsOf(sid: number): number {
    const known = this.#contexts.get(sid);
    if (known !== undefined) return known;
    const table = this.pages.take();
    this.#contexts.set(sid, table);
    // Stage 1 by a linear table of CDs; the first is for requests without a substream (S1DSS). Write-back, Inner Shareable.
    const high = 2n | (1n << 2n) | (1n << 4n) | (3n << 6n) | (this.#ats ? 1n << 28n : 0n);
    this.storeSte(sid, 1n | (5n << 1n) | BigInt(table) | (BigInt(this.#cdsLog2) << 59n), high);
    return table;
  }

  #contextChanged(sid: number, pasid: number): void {
    this.command(0x05n | (BigInt(pasid) << 12n) | (BigInt(sid) << 32n), 1n); // CMD_CFGI_CD
    this.#forgetAtDevice(sid, pasid, 52n);
    this.sync();
  }

  /** CMD_ATC_INV of 2^log2 pages at an address (§4.5.1). */
  #forgetAtDevice(sid: number, pasid: number, addressAndLog2: bigint): void {
    const substream = pasid === 0 ? 0n : (1n << 11n) | (BigInt(pasid) << 12n);
    if (this.#ats) this.command(0x40n | substream | (BigInt(sid) << 32n), addressAndLog2);
  }

  /** The stream's STE, with all of its substreams, or the descriptor of one. */
  detach(sid: number, pasid = 0): void {
    if (pasid === 0) {
      this.#contexts.delete(sid);
      this.storeSte(sid, 0n, 0n);
      return;
    }
    const cd = this.#contextsOf(sid) + pasid * CD_BYTES;
    const asid = this.pages.load(cd) >> 48n;
    this.pages.store(cd, 0n);
    this.command(0x11n | (asid << 48n)); // CMD_TLBI_NH_ASID
    this.#contextChanged(sid, pasid);
  }

  bypass(sid: number): void {
    this.#contexts.delete(sid);
    this.storeSte(sid, 1n | (4n << 1n), 0n);
  }

  /** An STE (§5.2), the upper half first, and CMD_CFGI_STE. */
  storeSte(sid: number, low: bigint, high: bigint): void {
    const ste = this.#streams + sid * STE_BYTES;
    this.pages.store(ste + 8, high);
    this.pages.store(ste, low);
    this.command(0x03n | (BigInt(sid) << 32n), 1n);
    this.sync();
  }

  /** The SMMU's TLB, and the device's (§4.4.2, §4.5.1). */
  invalidate(sid: number, { id }: GuestSpace, iova: bigint, pasid = 0): void {
    this.command(0x12n | (BigInt(id) << 48n), iova | 1n);
    this.#forgetAtDevice(sid, pasid, iova);
    this.sync();
  }

  // ---- commands ----

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
      const cons = this.#get(OFFSET.CMDQ_CONS);
      const error = (cons >>> 24) & 0x7f;
      if (error !== 0 || (cons & 0xf_ffff) === this.#prod) return error;
    }
  }

  // ---- events ----

  /** The next event record, as four 64-bit words; null where there is none (§7.3). */
  event(): readonly bigint[] | null {
    const prod = this.#get(OFFSET.EVENTQ_PROD);
    if ((prod & 0xf_ffff) === this.#eventsTaken) return null;
    const at = this.#events + (this.#eventsTaken % 2 ** QUEUE_LOG2) * 32;
    const words = [0, 8, 16, 24].map((offset) => this.pages.load(at + offset));
    this.#eventsTaken = (this.#eventsTaken + 1) % 2 ** (QUEUE_LOG2 + 1);
    // OVACKFLG follows OVFLG: that records were lost has been noticed (§7.4).
    this.#set(OFFSET.EVENTQ_CONS, BigInt(((prod & 0x8000_0000) | this.#eventsTaken) >>> 0));
    return words;
  }

  /** The next stalled transaction; other events on the way are passed over. */
  pageRequest(): GuestPageRequest | null {
    for (let event = this.event(); event !== null; event = this.event()) {
      const words = Uint32Array.from(event.flatMap((word) => [lo32(word), hi32(word)]));
      if (readField(EVENT_RECORD.Stall, words) === 0) continue;
      return {
        device: readField(EVENT_RECORD.StreamID, words),
        pasid: readField(EVENT_RECORD.SubstreamID, words),
        address: readField64(EVENT_RECORD.InputAddr, words) & ~0xfffn,
        write: readField(EVENT_RECORD.RnW, words) === 0,
        tag: readField(EVENT_RECORD.STAG, words),
      };
    }
    return null;
  }

  /** CMD_RESUME: retry, or abort (§4.7.1). */
  answer({ device, tag }: GuestPageRequest, granted: boolean): void {
    this.command(0x44n | (granted ? 1n << 12n : 1n << 13n) | (BigInt(device) << 32n), BigInt(tag));
    this.sync();
  }
}
