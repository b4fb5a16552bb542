// Remapping hardware with memory around it, and short words for what tests do with both.

import { type Field, type FieldSpec, type Layout, decode, encode } from '../../../../base/bit-fields.ts';
import { AtsFunction } from '../../../testing/ats-function.ts';
import { TestMemory } from '../../../testing/memory.ts';
import {
  CONTEXT_ENTRY,
  CONTEXT_ENTRY_BYTES,
  ROOT_ENTRY,
  SM_CONTEXT_ENTRY,
  SM_CONTEXT_ENTRY_BYTES,
  SM_ROOT_ENTRY,
} from '../../spec/context.ts';
import { FRCD, FRCD_BYTES, PAGE_REQ_DSC } from '../../spec/faults.ts';
import {
  CC_INV_DSC,
  DESC,
  DEV_TLB_INV_DSC,
  INV_WAIT_DSC,
  IOTLB_INV_DSC,
  PAGE_GRP_RESP_DSC,
  PC_INV_DSC,
  P_DEV_TLB_INV_DSC,
  P_IOTLB_INV_DSC,
} from '../../spec/invalidation.ts';
import {
  PASID_DIR_ENTRY,
  PASID_DIR_ENTRY_BYTES,
  PASID_ENTRY,
  PASID_ENTRY_BYTES,
  PGTT,
} from '../../spec/pasid.ts';
import { FSTS, GCMD, IQERCD, OFFSET, TTM } from '../../spec/registers.ts';
import { type ConfigOverrides, intelConfig } from '../registers/config.ts';
import { IntelIommu } from '../intel-iommu.ts';
import type { EventInterrupt, Outcome, Transaction } from '../transaction.ts';
import { Tables, type TablesOptions } from './tables.ts';

/** Where things are in the rig's memory. */
export const AT = {
  root: 0x1000_0000,
  context: 0x1001_0000,
  upper: 0x1002_0000,
  directory: 0x1003_0000,
  pasids: 0x1004_0000,
  iq: 0x1100_0000,
  prq: 0x1200_0000,
  status: 0x1300_0000,
  first: 0x2000_0000,
  second: 0x3000_0000,
  data: 0x8000_0000,
} as const;

/** The function that most rules use: bus 0, device 4, function 0; and an address it accesses. */
export const RID = 0x20;
export const VA = 0x4000_0000n;
export const DATA = BigInt(AT.data);
/** Domain-ids: of entries with a second stage, and without. */
export const DID = 7;

export type Values<L> = { readonly [Name in Exclude<keyof L, '$'>]?: number };
export type Register = keyof typeof OFFSET;
const WIDE: ReadonlySet<string> = new Set(['CAP', 'ECAP', 'RTADDR', 'CCMD', 'PHMBASE', 'PHMLIMIT']);
const WIDE_QUEUES = /^(?:IQH|IQT|IQA|IQERCD|IRTA|PQH|PQT|PQA)$/;

/** Fields that hold an address in place. */
const ADDRESSES = new Set([
  'CTP',
  'LCTP',
  'UCTP',
  'SSPTPTR',
  'PASIDDIRPTR',
  'SMPTBLPTR',
  'FSPTPTR',
  'HPTPTR',
]);

/** The words of a structure; pointers are given as addresses. */
export function structure<F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  values: Readonly<Record<string, number>>,
): Uint32Array {
  const out: Record<string, number> = {};
  for (const [name, value] of Object.entries(values)) {
    const field = of[name as keyof Layout<F>] as Field;
    out[name] = ADDRESSES.has(name) ? Math.floor(value / 2 ** (field.lsb % 64)) : value;
  }
  return encode(of, out as { readonly [Name in keyof F]?: number });
}

export interface RigOptions {
  readonly config?: ConfigOverrides;
  /** Leave everything as after reset. */
  readonly off?: boolean;
  readonly mode?: 'legacy' | 'scalable';
}

/** A fault record, its fields by name. */
export type Seen = Readonly<Record<string, number | bigint>>;

export class Rig {
  readonly memory = new TestMemory();
  readonly iommu: IntelIommu;
  /** Messages of the hardware's own events, as they came. */
  readonly interrupts: EventInterrupt[] = [];
  readonly mode: 'legacy' | 'scalable';
  #freeFirst: number = AT.first;
  #freeSecond: number = AT.second;

  constructor({ config = {}, off = false, mode = 'scalable' }: RigOptions = {}) {
    this.mode = mode;
    this.iommu = new IntelIommu({
      memory: this.memory,
      config: intelConfig(config),
      onInterrupt: (interrupt) => this.interrupts.push(interrupt),
    });
    if (off) return;
    this.write('RTADDR', AT.root + (mode === 'scalable' ? TTM.SCALABLE << 10 : 0));
    this.command(GCMD.SRTP.inPlace);
    this.roots();
    this.write('IQA', AT.iq + (mode === 'scalable' ? 1 << 11 : 0));
    this.write('PQA', AT.prq);
    this.command(GCMD.QIE.inPlace);
    this.command(GCMD.QIE.inPlace | GCMD.TE.inPlace);
  }

  /** The root entries of bus 0. */
  roots(fields: Readonly<Record<string, number>> = {}): void {
    const words =
      this.mode === 'scalable'
        ? structure(SM_ROOT_ENTRY, { LP: 1, LCTP: AT.context, UP: 1, UCTP: AT.upper, ...fields })
        : structure(ROOT_ENTRY, { P: 1, CTP: AT.context, ...fields });
    this.memory.put(AT.root, words);
  }

  /** The function, with ATS. */
  atsFunction(): AtsFunction<Outcome> {
    const device = new AtsFunction<Outcome>({
      requestTranslation: (packet) => this.iommu.requestTranslation({ requesterId: RID, ...packet }),
      translate: (packet) => this.iommu.translate({ requesterId: RID, ...packet }),
    });
    this.iommu.attachEndpoint(RID, {
      invalidate: (request) => device.invalidate(request),
      pageResponse: () => {},
    });
    return device;
  }

  // --- registers ---

  #size(register: Register): 4 | 8 {
    return WIDE.has(register) || WIDE_QUEUES.test(register) ? 8 : 4;
  }

  write(register: Register, value: number | bigint): void {
    this.iommu.writeRegister(OFFSET[register], this.#size(register), BigInt(value));
  }

  read(register: Register): number {
    return Number(this.iommu.readRegister(OFFSET[register], this.#size(register)));
  }

  read64(offset: number): bigint {
    return this.iommu.readRegister(offset, 8);
  }

  /** Writes GCMD. Bits that are not given are disabled. */
  command(bits: number): void {
    this.write('GCMD', bits >>> 0);
  }

  // --- structures ---

  /** Writes a legacy-mode context entry; present, second stage of 4 levels, DID unless said otherwise. */
  context(fields: Values<typeof CONTEXT_ENTRY> = {}, rid = RID): void {
    const words = structure(CONTEXT_ENTRY, { P: 1, AW: 2, DID, ...fields } as Record<string, number>);
    this.memory.put(AT.context + (rid & 0xff) * CONTEXT_ENTRY_BYTES, words);
  }

  /** Writes a scalable-mode context entry: present, with Device-TLB, PASIDs and page requests. */
  smContext(fields: Values<typeof SM_CONTEXT_ENTRY> = {}, rid = RID): void {
    const all = { P: 1, DTE: 1, PASIDE: 1, PRE: 1, PASIDDIRPTR: AT.directory, ...fields };
    const words = structure(SM_CONTEXT_ENTRY, all as Record<string, number>);
    const table = (rid & 0x80) !== 0 ? AT.upper : AT.context;
    this.memory.put(table + (rid & 0x7f) * SM_CONTEXT_ENTRY_BYTES, words);
  }

  directory(fields: Values<typeof PASID_DIR_ENTRY> = {}, index = 0, directory: number = AT.directory): void {
    const all = { P: 1, SMPTBLPTR: AT.pasids, ...fields };
    const words = structure(PASID_DIR_ENTRY, all as Record<string, number>);
    this.memory.put(directory + index * PASID_DIR_ENTRY_BYTES, words);
  }

  /** Writes a PASID table entry. */
  pasid(fields: Values<typeof PASID_ENTRY> = {}, index = 0, table: number = AT.pasids): void {
    const words = structure(PASID_ENTRY, { P: 1, DID, PWSNP: 1, ...fields } as Record<string, number>);
    this.memory.put(table + (index & 63) * PASID_ENTRY_BYTES, words);
  }

  /** The entry's words as they are, with fields changed. */
  repasid(fields: Values<typeof PASID_ENTRY>, index = 0): void {
    const at = AT.pasids + index * PASID_ENTRY_BYTES;
    const now = decode(PASID_ENTRY, this.memory.words(at, 16));
    const change = structure(PASID_ENTRY, fields as Record<string, number>);
    const changed = decode(PASID_ENTRY, change);
    const all: Record<string, number | bigint> = { ...now };
    for (const name of Object.keys(fields)) all[name] = changed[name]!;
    this.memory.put(at, encode(PASID_ENTRY, all as Values<typeof PASID_ENTRY>));
  }

  tables(options: TablesOptions): Tables {
    const second = options.stage === 2;
    const allocate = (): number => {
      if (second) return (this.#freeSecond += 0x1000) - 0x1000;
      return (this.#freeFirst += 0x1000) - 0x1000;
    };
    return new Tables(this.memory, allocate, options);
  }

  /** A function whose requests go through a second stage of 4 levels, in the rig's mode. */
  second(
    fields: Readonly<Record<string, number>> = {},
    options: Partial<TablesOptions> = {},
    rid = RID,
  ): Tables {
    const tables = this.tables({ stage: 2, levels: 4, ...options });
    if (this.mode === 'legacy') this.context({ SSPTPTR: tables.root, AW: tables.levels - 2, ...fields }, rid);
    else {
      this.smContext({}, rid);
      this.directory();
      this.pasid({ PGTT: PGTT.SECOND_STAGE, AW: tables.levels - 2, SSPTPTR: tables.root, ...fields });
    }
    return tables;
  }

  /** A function whose requests go through a first stage of 4 levels. */
  first(fields: Values<typeof PASID_ENTRY> = {}, options: Partial<TablesOptions> = {}, pasid = 0): Tables {
    const tables = this.tables({ stage: 1, levels: 4, ...options });
    this.smContext();
    this.directory();
    const fspm = tables.levels === 5 ? 1 : 0;
    this.pasid({ PGTT: PGTT.FIRST_STAGE, FSPM: fspm, FSPTPTR: tables.root, ...fields }, pasid);
    return tables;
  }

  /** A function with both stages. The second maps first-stage tables to where they are. */
  nested(
    fields: Values<typeof PASID_ENTRY> = {},
    pasid = 0,
  ): { readonly first: Tables; readonly second: Tables } {
    const second = this.tables({ stage: 2, levels: 4 });
    const first = this.tables({ stage: 1, levels: 4 });
    for (let at = AT.first; at < AT.first + 0x4_0000; at += 0x1000) second.map(BigInt(at), BigInt(at));
    this.smContext();
    this.directory();
    const all = { PGTT: PGTT.NESTED, AW: 2, SSPTPTR: second.root, FSPTPTR: first.root };
    this.pasid({ ...all, ...fields }, pasid);
    return { first, second };
  }

  /** A function whose requests pass through. */
  passThrough(fields: Readonly<Record<string, number>> = {}): void {
    if (this.mode === 'legacy') {
      this.context({ TT: 2, AW: 3, ...fields });
      return;
    }
    this.smContext();
    this.directory();
    this.pasid({ PGTT: PGTT.PASS_THROUGH, ...fields });
  }

  // --- requests ---

  dma(address: bigint, transaction: Partial<Transaction> = {}): Outcome {
    const hi = Number(address >> 32n);
    const lo = Number(address & 0xffff_ffffn);
    return this.iommu.translate({ requesterId: RID, hi, lo, ...transaction });
  }

  /** Where an access lands; null where it does not. */
  pa(address: bigint, transaction: Partial<Transaction> = {}): number | null {
    const outcome = this.dma(address, transaction);
    return outcome.kind === 'translated' ? outcome.pa : null;
  }

  /** The condition code that blocks an access; null where none does. */
  code(address: bigint, transaction: Partial<Transaction> = {}): string | null {
    const outcome = this.dma(address, transaction);
    return outcome.kind === 'blocked' ? (outcome.fault?.code ?? outcome.status) : null;
  }

  // --- faults ---

  get frcd(): number {
    return this.iommu.features.frcdOffset;
  }

  /** A fault recording register. */
  record(index = 0): Seen {
    const at = this.frcd + index * FRCD_BYTES;
    const words = [0, 4, 8, 12].map((word) => Number(this.iommu.readRegister(at + word, 4)));
    return decode(FRCD, words);
  }

  /** Takes every fault out, as software does. */
  faults(): Seen[] {
    const out: Seen[] = [];
    const count = this.iommu.features.frcdCount;
    const first = Number(decode(FSTS, [this.read('FSTS')])['FRI']);
    for (let i = 0; i < count; i++) {
      const index = (first + i) % count;
      const record = this.record(index);
      if (record['F'] === 0) break;
      out.push(record);
      this.iommu.writeRegister(this.frcd + index * FRCD_BYTES + 12, 4, 0x8000_0000n);
    }
    this.write('FSTS', 1);
    return out;
  }

  /** The first record that an access leaves, or null. */
  fault(address: bigint, transaction: Partial<Transaction> = {}): Seen | null {
    this.faults();
    this.dma(address, transaction);
    return this.faults()[0] ?? null;
  }

  // --- queues ---

  get #descriptorBytes(): number {
    return (this.read('IQA') & 0x800) !== 0 ? 32 : 16;
  }

  /** Puts descriptors into the queue and rings the bell. */
  run(...descriptors: readonly Uint32Array[]): void {
    const bytes = this.#descriptorBytes;
    const mask = (4096 << (this.read('IQA') & 7)) - 1;
    let tail = this.read('IQT');
    for (const words of descriptors) {
      const padded = new Uint32Array(bytes / 4);
      padded.set(words.subarray(0, bytes / 4));
      this.memory.put(AT.iq + tail, padded);
      tail = (tail + bytes) & mask;
    }
    this.write('IQT', tail);
  }

  /** IQEI, or 'OK' where there is no Invalidation Queue Error. */
  get iqei(): number | 'OK' {
    if ((this.read('FSTS') & FSTS.IQE.inPlace) === 0) return 'OK';
    const words = [Number(this.iommu.readRegister(OFFSET.IQERCD, 4)), 0];
    return Number(decode(IQERCD, words)['IQEI']);
  }

  /** Runs one descriptor and says how it went. */
  try(descriptor: Uint32Array): number | 'OK' {
    this.run(descriptor);
    return this.iqei;
  }

  /** Page request descriptors that software has not consumed. */
  pageRequests(): Record<string, number | bigint>[] {
    const out: Record<string, number | bigint>[] = [];
    let head = this.read('PQH');
    while (head !== this.read('PQT')) {
      out.push(decode(PAGE_REQ_DSC, this.memory.words(AT.prq + head, 8)));
      head = (head + 32) & 4095;
    }
    this.write('PQH', head);
    return out;
  }
}

// --- descriptors ---

type Fields<L> = { readonly [Name in Exclude<keyof L, '$' | 'TypeLo' | 'TypeHi'>]?: number | bigint };
const page = (address: bigint): bigint => address >> 12n;
interface Addressed {
  readonly address?: bigint;
}

export const descriptor = {
  cc: (fields: Fields<typeof CC_INV_DSC> = {}) =>
    encode(CC_INV_DSC, { TypeLo: DESC.CC_INV, G: 1, ...fields }),
  pc: (fields: Fields<typeof PC_INV_DSC> = {}) =>
    encode(PC_INV_DSC, { TypeLo: DESC.PC_INV, G: 3, ...fields }),
  iotlb: ({ address = 0n, ...fields }: Fields<typeof IOTLB_INV_DSC> & Addressed = {}) =>
    encode(IOTLB_INV_DSC, { TypeLo: DESC.IOTLB_INV, G: 1, ADDR: page(address), ...fields }),
  pIotlb: ({ address = 0n, ...fields }: Fields<typeof P_IOTLB_INV_DSC> & Addressed = {}) =>
    encode(P_IOTLB_INV_DSC, { TypeLo: DESC.P_IOTLB_INV, G: 2, DID, ADDR: page(address), ...fields }),
  devTlb: ({ address = 0n, ...fields }: Fields<typeof DEV_TLB_INV_DSC> & Addressed = {}) =>
    encode(DEV_TLB_INV_DSC, { TypeLo: DESC.DEV_TLB_INV, SID: RID, ADDR: page(address), ...fields }),
  pDevTlb: ({ address = 0n, ...fields }: Fields<typeof P_DEV_TLB_INV_DSC> & Addressed = {}) =>
    encode(P_DEV_TLB_INV_DSC, { TypeLo: DESC.P_DEV_TLB_INV, SID: RID, ADDR: page(address), ...fields }),
  wait: ({
    status = AT.status,
    ...fields
  }: Fields<typeof INV_WAIT_DSC> & { readonly status?: number } = {}) =>
    encode(INV_WAIT_DSC, { TypeLo: DESC.INV_WAIT, STATUS_ADDRESS: Math.floor(status / 4), ...fields }),
  pageGroupResponse: (fields: Fields<typeof PAGE_GRP_RESP_DSC> = {}) =>
    encode(PAGE_GRP_RESP_DSC, { TypeLo: DESC.PAGE_GRP_RESP, RID, ...fields }),
  /** Nothing but a type. */
  type: (type: number) => Uint32Array.of((type & 0xf) | ((type >> 4) << 9), 0, 0, 0, 0, 0, 0, 0),
};
