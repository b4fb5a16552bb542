// An SMMU with memory around it, and short words for what tests do with both.

import {
  type Field,
  type FieldSpec,
  type Layout,
  decode,
  encode,
  nameOf,
} from '../../../../base/bit-fields.ts';
import { exact } from '../../../../base/u64.ts';
import { CD, CD_BYTES, L1CD, L1CD_BYTES } from '../../spec/cd.ts';
import {
  CMD,
  CMD_ATC_INV,
  CMD_CFGI,
  CMD_PRI_RESP,
  CMD_RESUME,
  CMD_SYNC,
  CMD_TLBI,
} from '../../spec/commands.ts';
import { EVENT, EVENT_RECORD, EVENT_WORDS, FETCH_RECORD } from '../../spec/events.ts';
import { PRIQ_RECORD, PRIQ_WORDS } from '../../spec/queues.ts';
import { CERROR, CMDQ_CONS, CR0, GERROR, OFFSET } from '../../spec/registers.ts';
import { L1STD, L1STD_BYTES, STE, STE_BYTES, STE_CONFIG } from '../../spec/ste.ts';
import { type ConfigOverrides, smmuV3Config } from '../registers/config.ts';
import type { Msi } from '../registers/interrupts.ts';
import { SmmuV3 } from '../smmu.ts';
import type { Outcome, StalledTransaction, Transaction } from '../transaction.ts';
import { TestMemory } from '../../../testing/memory.ts';
import { Tables, type TablesOptions } from './tables.ts';

/** Where things are in the rig's memory. */
export const AT = {
  strtab: 0x1000_0000,
  strtab2: 0x1080_0000,
  cmdq: 0x1100_0000,
  eventq: 0x1200_0000,
  priq: 0x1300_0000,
  cds: 0x1400_0000,
  cds2: 0x1410_0000,
  tables: 0x2000_0000,
  stage2: 0x3000_0000,
  data: 0x8000_0000,
} as const;

/** The stream that most rules use, and an address it accesses. */
export const SID = 5;
export const VA = 0x4000_0000n;
export const QUEUE_LOG2 = 5;

export type SteFields = { readonly [Name in Exclude<keyof typeof STE, '$'>]?: number };
export type CdFields = { readonly [Name in Exclude<keyof typeof CD, '$'>]?: number };
export type Register = keyof typeof OFFSET;
/** A record, its fields by name; `type` is the event's name. */
export interface Seen {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** Fields that hold an address in place. */
const ADDRESSES = new Set(['S1ContextPtr', 'S2TTB', 'TTB0', 'TTB1', 'L2Ptr', 'VMSPtr']);

function structure<F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  values: Record<string, number>,
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
  readonly memory?: TestMemory;
  readonly onMsi?: (msi: Msi) => boolean;
}

export class Rig {
  readonly memory: TestMemory;
  readonly smmu: SmmuV3;
  /** Interrupts as they came. */
  readonly interrupts: string[] = [];
  #free: number = AT.tables;

  constructor({ config = {}, off = false, memory = new TestMemory(), onMsi }: RigOptions = {}) {
    this.memory = memory;
    this.smmu = new SmmuV3({
      memory,
      config: smmuV3Config(config),
      onInterrupt: (which) => this.interrupts.push(which),
      ...(onMsi === undefined ? {} : { onMsi }),
    });
    if (off) return;
    this.write('STRTAB_BASE', AT.strtab);
    this.write('STRTAB_BASE_CFG', 8);
    this.write('CMDQ_BASE', AT.cmdq + QUEUE_LOG2);
    this.write('EVENTQ_BASE', AT.eventq + QUEUE_LOG2);
    this.write('PRIQ_BASE', AT.priq + QUEUE_LOG2);
    this.write('CR2', 0b1010);
    this.write('CR0', 0b1111);
    this.write('IRQ_CTRL', 0b111);
  }

  // --- registers ---

  #size(register: Register): 4 | 8 {
    return /_BASE$|IRQ_CFG0$/.test(register) ? 8 : 4;
  }

  write(register: Register, value: number | bigint): void {
    this.smmu.writeRegister(OFFSET[register], this.#size(register), BigInt(value));
  }

  read(register: Register): number {
    return Number(this.smmu.readRegister(OFFSET[register], this.#size(register)));
  }

  /** Changes fields of CR0, the others stay. */
  cr0(fields: { readonly [Name in Exclude<keyof typeof CR0, '$'>]?: number }): void {
    this.write('CR0', encode(CR0, { ...decode(CR0, [this.read('CR0')]), ...fields })[0]!);
  }

  // --- structures ---

  /** Writes the STE of a stream into the linear Stream table; V is 1 unless said otherwise. */
  ste(sid: number, fields: SteFields, table: number = AT.strtab): void {
    this.memory.put(table + sid * STE_BYTES, structure(STE, { V: 1, ...fields } as Record<string, number>));
  }

  l1std(index: number, span: number, pointer: number): void {
    this.memory.put(AT.strtab + index * L1STD_BYTES, structure(L1STD, { Span: span, L2Ptr: pointer }));
  }

  cd(fields: CdFields, index = 0, table: number = AT.cds): void {
    this.memory.put(table + index * CD_BYTES, structure(CD, { V: 1, ...fields } as Record<string, number>));
  }

  l1cd(index: number, valid: 0 | 1, pointer: number, table: number = AT.cds): void {
    this.memory.put(table + index * L1CD_BYTES, structure(L1CD, { V: valid, L2Ptr: pointer }));
  }

  /** Memory for tables: aligned to its size, below AT.stage2. */
  allocate = (bytes: number): number => {
    const at = Math.ceil(this.#free / bytes) * bytes;
    this.#free = at + bytes;
    return at;
  };

  tables(options: TablesOptions = {}): Tables {
    return new Tables(this.memory, this.allocate, options);
  }

  /** A CD whose TTB0 are `tables`: 48-bit VAs of 4K, ASID 1, faults abort and are recorded. */
  cdFor(tables: Tables, fields: CdFields = {}): CdFields {
    return {
      AA64: 1,
      A: 1,
      R: 1,
      ASID: 1,
      T0SZ: 16,
      EPD1: 1,
      IPS: 5,
      SH0: 3,
      MAIR0: 0xff,
      TTB0: tables.root,
      ...fields,
    };
  }

  /** A stage 1 stream, and its tables. */
  stage1(ste: SteFields = {}, cd: CdFields = {}, options: TablesOptions = {}, sid = SID): Tables {
    const tables = this.tables(options);
    this.ste(sid, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, SHCFG: 1, ...ste });
    this.cd(this.cdFor(tables, cd));
    return tables;
  }

  /** The stage 2 fields of an STE: 39-bit IPAs of 4K, VMID 7, faults are recorded. */
  steFor(tables: Tables, fields: SteFields = {}): SteFields {
    return {
      S2VMID: 7,
      S2T0SZ: 25,
      S2SL0: 1,
      S2PS: 5,
      S2AA64: 1,
      S2R: 1,
      S2TTB: tables.root,
      SHCFG: 1,
      ...fields,
    };
  }

  /** A stage 2 stream, and its tables. */
  stage2(ste: SteFields = {}, options: TablesOptions = {}, sid = SID): Tables {
    const tables = this.tables({ stage: 2, ...options });
    this.ste(sid, { Config: STE_CONFIG.S2_TRANS, ...this.steFor(tables, ste) });
    return tables;
  }

  /** A stream with both stages. Stage 2 maps CDs and stage 1 tables to where they are. */
  nested(
    ste: SteFields = {},
    cd: CdFields = {},
    sid = SID,
  ): { readonly first: Tables; readonly second: Tables } {
    const second = this.tables({ stage: 2 });
    const first = this.tables();
    for (const at of [AT.cds, AT.tables]) second.map(BigInt(at), BigInt(at), { level: 2 });
    this.ste(sid, { Config: STE_CONFIG.NESTED, S1ContextPtr: AT.cds, ...this.steFor(second, ste) });
    this.cd(this.cdFor(first, cd));
    return { first, second };
  }

  /** The IPA of a page of tables is the address that it has: this page is now no longer mapped so at stage 2. */
  unmap(tables: Tables, address: bigint, level: number): void {
    tables.put(tables.descriptor(address, level), 0n);
  }

  // --- transactions ---

  dma(address: bigint, transaction: Partial<Transaction> = {}): Outcome {
    const hi = Number(address >> 32n);
    const lo = Number(address & 0xffff_ffffn);
    return this.smmu.translate({ streamId: SID, hi, lo, ...transaction });
  }

  /** Where an access lands; null where it does not. */
  pa(address: bigint, transaction: Partial<Transaction> = {}): number | null {
    const outcome = this.dma(address, transaction);
    return outcome.kind === 'translated' ? outcome.pa : null;
  }

  /** The first record that an access leaves, or null; with `end`, how the access ended. */
  fault(address: bigint, transaction: Partial<Transaction> = {}): Seen | null {
    this.events();
    const { kind } = this.dma(address, transaction);
    const [first] = this.events();
    if (first === undefined || kind !== 'translated') return first ?? null;
    throw new Error(`translated, and recorded ${first.type}`);
  }

  /** The type of that record. */
  type(address: bigint, transaction: Partial<Transaction> = {}): string | null {
    return this.fault(address, transaction)?.type ?? null;
  }

  /** An access that waits. */
  stall(address: bigint, transaction: Partial<Transaction> = {}): StalledTransaction {
    const outcome = this.dma(address, transaction);
    if (outcome.kind !== 'stalled') throw new Error(`it does not wait: ${outcome.kind}`);
    return outcome.stall;
  }

  // --- queues ---

  /** Takes every record out of the Event queue. */
  events(): Seen[] {
    const out: Seen[] = [];
    const prod = this.read('EVENTQ_PROD');
    const mask = 2 ** (QUEUE_LOG2 + 1) - 1;
    let cons = this.read('EVENTQ_CONS');
    while (((cons ^ prod) & mask) !== 0) {
      out.push(this.record(cons & (2 ** QUEUE_LOG2 - 1)));
      cons = (cons & 0x8000_0000) | ((cons + 1) & mask);
    }
    this.write('EVENTQ_CONS', cons >>> 0);
    return out;
  }

  /** The record in a slot of the Event queue. */
  record(slot: number): Seen {
    const words = this.memory.words(AT.eventq + slot * EVENT_WORDS * 4, EVENT_WORDS);
    const fields = decode(EVENT_RECORD, words);
    const fetch = exact(BigInt(decode(FETCH_RECORD, words)['FetchAddr']!)) * 8;
    return {
      ...fields,
      IPA: exact(BigInt(fields['IPA']!)) * 4096,
      FetchAddr: fetch,
      type: nameOf(EVENT, words[0]! & 0xff),
      words: [...words],
    };
  }

  /** Puts commands into the queue and rings the bell. */
  run(...commands: readonly Uint32Array[]): void {
    let prod = this.read('CMDQ_PROD');
    for (const words of commands) {
      this.memory.put(AT.cmdq + (prod & (2 ** QUEUE_LOG2 - 1)) * 16, words);
      prod = (prod + 1) & (2 ** (QUEUE_LOG2 + 1) - 1);
    }
    this.write('CMDQ_PROD', prod);
  }

  /** The Command queue's error: `NONE` where GERROR tells of none. */
  get cerror(): string {
    const active = (this.read('GERROR') ^ this.read('GERRORN')) & GERROR.CMDQ_ERR.inPlace;
    if (active === 0) return 'NONE';
    return nameOf(CERROR, Number(decode(CMDQ_CONS, [this.read('CMDQ_CONS')])['ERR']));
  }

  /** Runs one command and says how it went. */
  try(command: Uint32Array): string {
    this.run(command);
    return this.cerror;
  }

  /** Global errors that are active, by name. */
  gerrors(): string[] {
    const active = this.read('GERROR') ^ this.read('GERRORN');
    return GERROR.$.fields.filter((field) => (active & field.inPlace) !== 0).map((field) => field.name);
  }

  /** Acknowledges every global error. */
  acknowledge(): void {
    this.write('GERRORN', this.read('GERROR'));
  }

  /** Entries of the PRI queue that software has not consumed. */
  pageRequests(): Record<string, number | bigint>[] {
    const out: Record<string, number | bigint>[] = [];
    const mask = 2 ** (QUEUE_LOG2 + 1) - 1;
    const prod = this.read('PRIQ_PROD');
    let cons = this.read('PRIQ_CONS');
    while (((cons ^ prod) & mask) !== 0) {
      const slot = cons & (2 ** QUEUE_LOG2 - 1);
      out.push(decode(PRIQ_RECORD, this.memory.words(AT.priq + slot * PRIQ_WORDS * 4, PRIQ_WORDS)));
      cons = (cons & 0x8000_0000) | ((cons + 1) & mask);
    }
    this.write('PRIQ_CONS', cons >>> 0);
    return out;
  }
}

// --- commands ---

type Values<L> = { readonly [Name in Exclude<keyof L, '$' | 'Opcode'>]?: number | bigint };

/** Address fields of commands start at bit 12 of the address. */
const page = (address: bigint): bigint => address >> 12n;

export const command = {
  cfgi: (name: `CFGI_${string}` & keyof typeof CMD, fields: Values<typeof CMD_CFGI> = {}) =>
    encode(CMD_CFGI, { Opcode: CMD[name], StreamID: SID, ...fields }),
  cfgiAll: () => encode(CMD_CFGI, { Opcode: CMD.CFGI_STE_RANGE, Range: 31 }),
  tlbi: (
    name: `TLBI_${string}` & keyof typeof CMD,
    { address = 0n, ...fields }: Values<typeof CMD_TLBI> & { readonly address?: bigint } = {},
  ) => encode(CMD_TLBI, { Opcode: CMD[name], Address: page(address), ...fields }),
  atcInv: ({ address = 0n, ...fields }: Values<typeof CMD_ATC_INV> & { readonly address?: bigint } = {}) =>
    encode(CMD_ATC_INV, { Opcode: CMD.ATC_INV, StreamID: SID, Address: page(address), ...fields }),
  priResp: (fields: Values<typeof CMD_PRI_RESP> = {}) =>
    encode(CMD_PRI_RESP, { Opcode: CMD.PRI_RESP, StreamID: SID, ...fields }),
  resume: (fields: Values<typeof CMD_RESUME> = {}) =>
    encode(CMD_RESUME, { Opcode: CMD.RESUME, StreamID: SID, ...fields }),
  stallTerm: (sid = SID) => encode(CMD_RESUME, { Opcode: CMD.STALL_TERM, StreamID: sid }),
  sync: ({ msi = 0, ...fields }: Values<typeof CMD_SYNC> & { readonly msi?: number } = {}) =>
    encode(CMD_SYNC, { Opcode: CMD.SYNC, MSIAddress: Math.floor(msi / 4), ...fields }),
  opcode: (opcode: number) => encode(CMD_CFGI, { Opcode: opcode }),
};
