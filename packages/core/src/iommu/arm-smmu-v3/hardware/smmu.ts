// An SMMUv3: registers, tables and queues in memory, and transactions of devices. What software can observe of an
// implementation is in this folder, by topic; this file puts it together.

import { readField } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import { DEFAULT_INPUT, override } from '../../../pagetable/armv8-attributes.ts';
import { PERM } from '../../../pagetable/armv8.ts';
import { Scatter } from '../../../memory/scatter.ts';
import type { Trace } from '../../../trace/trace.ts';
import { EVENT } from '../spec/events.ts';
import { CR0, CR2, GBPA, OFFSET, STRTAB_BASE_CFG } from '../spec/registers.ts';
import {
  ADDRESS_SIZE,
  Ats,
  type AtsCompletion,
  type AtsRequest,
  bypassAttributes,
} from './translation/ats.ts';
import { CommandQueue } from './queues/command-queue.ts';
import { Commands } from './queues/commands.ts';
import { type SmmuV3Config, type SmmuV3Features, smmuV3Features } from './registers/config.ts';
import { type CachedStream, ConfigTable, aborts } from './configuration/config-table.ts';
import type { Endpoint } from './endpoint.ts';
import { EventQueue } from './queues/event-queue.ts';
import {
  type AccessAttributes,
  type PageHint,
  configEvent,
  pageHintEvent,
  translationEvent,
  unsupportedEvent,
} from './queues/events.ts';
import { Interrupts, type Msi } from './registers/interrupts.ts';
import { Iotlb } from './translation/iotlb.ts';
import { PriQueue, type PageRequest, type PageResponse } from './queues/pri-queue.ts';
import { type RegisterChange, RegisterFile } from './registers/registers.ts';
import { Stalls } from './queues/stalls.ts';
import {
  type StreamConfig,
  effectiveInstruction,
  effectivePrivilege,
  isIllegal,
} from './configuration/stream-config.ts';
import type {
  EventRecord,
  Interrupt,
  Outcome,
  StalledTransaction,
  Terminated,
  Transaction,
} from './transaction.ts';
import type { Context, TranslationFault } from './configuration/context.ts';
import { Translator } from './translation/translator.ts';

export interface SmmuV3Options {
  readonly memory: PhysicalMemory;
  readonly config: SmmuV3Config;
  readonly trace?: Trace;
  /** A wired interrupt, or the WFE wake-up event, pulses. */
  readonly onInterrupt?: (which: Interrupt) => void;
  /** An MSI is sent: true where its address is a doorbell and it is delivered; else it is a write to memory. */
  readonly onMsi?: (msi: Msi) => boolean;
}

/** What access() did. */
export interface AccessResult {
  /** Bytes that were transferred, or that RAZ/WI swallowed. */
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. A translated address that memory refuses is 'bus'. */
  readonly stopped: Exclude<Outcome, { kind: 'translated' }> | 'bus' | null;
}

const TRANSLATION_RELATED: ReadonlySet<number> = new Set([
  EVENT.F_TRANSLATION,
  EVENT.F_ADDR_SIZE,
  EVENT.F_ACCESS,
  EVENT.F_PERMISSION,
]);
const ABORTED: Terminated = { kind: 'terminated', abort: true, event: null, recorded: false };

export class SmmuV3 {
  readonly config: SmmuV3Config;
  readonly features: SmmuV3Features;
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #iotlb: Iotlb;
  readonly #translator: Translator;
  readonly #table: ConfigTable;
  readonly #events: EventQueue;
  readonly #pri: PriQueue;
  readonly #stalls: Stalls;
  readonly #commands: Commands;
  readonly #queue: CommandQueue;
  readonly #ats: Ats;
  readonly #endpoints = new Map<number, Endpoint>();
  /** CR0.SMMUEN as it is in effect. */
  #enabled = false;

  constructor({ memory, config, trace, onInterrupt, onMsi }: SmmuV3Options) {
    const features = smmuV3Features(config);
    const watcher = trace ?? null;
    this.config = config;
    this.features = features;
    this.#memory = memory;
    this.#registers = new RegisterFile(config, features, watcher);
    this.#interrupts = new Interrupts(
      memory,
      features,
      this.#registers,
      watcher,
      onInterrupt ?? (() => {}),
      onMsi ?? (() => false),
    );
    this.#iotlb = new Iotlb(config.caches.tlb, config.caches.tables, watcher);
    this.#translator = new Translator(memory, this.#iotlb, watcher);
    this.#table = new ConfigTable(memory, config, features, this.#iotlb, this.#translator, watcher);
    this.#iotlb.onStartOver = () => this.#table.forgetTags();
    this.#events = new EventQueue(memory, features, this.#registers, this.#interrupts, watcher);
    this.#pri = new PriQueue(memory, features, this.#registers, this.#interrupts, watcher);
    this.#stalls = new Stalls(this.#events, features.stallMax, (transaction, waiting) =>
      this.#transact(transaction, waiting),
    );
    this.#commands = new Commands({
      features,
      registers: this.#registers,
      table: this.#table,
      iotlb: this.#iotlb,
      interrupts: this.#interrupts,
      stalls: this.#stalls,
      endpoints: this.#endpoints,
    });
    this.#queue = new CommandQueue(
      memory,
      features,
      this.#registers,
      this.#interrupts,
      this.#commands,
      watcher,
    );
    this.#ats = new Ats(
      features,
      this.#table,
      this.#translator,
      () => ({
        enabled: this.#enabled,
        atschk: this.#registers.enabled(CR0.ATSCHK.inPlace),
        recordConfig: this.#cr2(CR2.REC_CFG_ATS.inPlace),
        recordStreamId: this.#cr2(CR2.RECINVSID.inPlace),
      }),
      (event, stream) => this.#record(event, stream),
    );
    this.#registers.onChange = (change) => this.#changed(change);
    this.#reconfigure();
  }

  /** Everything as after power-on. Transactions that wait are aborted. */
  reset(): void {
    this.#stalls.terminateAll();
    this.#registers.reset();
    this.#enabled = false;
    this.#table.invalidateAll();
    this.#iotlb.startOver();
    this.#commands.reset();
    this.#reconfigure();
  }

  #reconfigure(): void {
    this.#readStreamTable();
    this.#queue.configure();
    this.#events.configure();
    this.#pri.configure();
  }

  // --- registers ---

  /** Reads 4 or 8 bytes at an offset of the register file (page 1 is at 0x10000). */
  readRegister(offset: number, size: number): bigint {
    // Time passes while software polls: commands beyond one write's budget are consumed.
    if (offset === OFFSET.CMDQ_CONS) this.#queue.run(this.config.commandsPerStep);
    return this.#registers.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): void {
    this.#registers.write(offset, size, value);
  }

  /** Goes on with what a register write has left: updates and commands. True while there is more. */
  step(): boolean {
    this.#iotlb.tidy();
    this.#registers.completeUpdates();
    this.#queue.run(this.config.commandsPerStep);
    return this.#queue.pending;
  }

  /** Executes a command that another queue beside the SMMU has taken: CERROR.NONE, or why it cannot be consumed. */
  executeCommand(words: Uint32Array): number {
    return this.#commands.execute(words);
  }

  #changed(change: RegisterChange): void {
    switch (change) {
      case 'CR0':
        return this.#controlChanged();
      case 'CR2':
      case 'STRTAB':
        return this.#readStreamTable();
      case 'GERRORN':
        this.#queue.run(this.config.commandsPerStep);
        return this.#stalls.drain();
      case 'CMDQ_BASE':
      case 'CMDQ_CONS':
        return this.#queue.configure();
      case 'CMDQ_PROD':
        this.#queue.run(this.config.commandsPerStep);
        return;
      case 'EVENTQ_BASE':
        return this.#events.configure();
      case 'EVENTQ_PROD':
        return this.#events.normalize();
      case 'EVENTQ_CONS':
        return this.#stalls.drain();
      case 'PRIQ_BASE':
        return this.#pri.configure();
      case 'PRIQ_PROD':
        return this.#pri.normalize();
      case 'PRIQ_CONS':
    }
  }

  #controlChanged(): void {
    const enabled = this.#registers.enabled(CR0.SMMUEN.inPlace);
    if (this.#enabled && !enabled) this.#stalls.terminateAll();
    this.#enabled = enabled;
    this.#queue.run(this.config.commandsPerStep);
    this.#stalls.drain();
  }

  #readStreamTable(): void {
    const cfg = [this.#registers.get(OFFSET.STRTAB_BASE_CFG)];
    const split = readField(STRTAB_BASE_CFG.SPLIT, cfg);
    this.#table.base = {
      base: this.#registers.getAddress(OFFSET.STRTAB_BASE, 6),
      log2Size: readField(STRTAB_BASE_CFG.LOG2SIZE, cfg),
      split: split === 8 || split === 10 ? split : 6,
      fmt: readField(STRTAB_BASE_CFG.FMT, cfg),
      e2h: this.#cr2(CR2.E2H.inPlace),
    };
  }

  #cr2(bit: number): boolean {
    return (this.#registers.get(OFFSET.CR2) & bit) !== 0;
  }

  // --- transactions ---

  /** What becomes of a transaction. What a translated outcome says holds until the next transaction. */
  translate(transaction: Transaction): Outcome {
    return this.#quick(transaction) ? this.#translator.answer : this.#transact(transaction, null);
  }

  /** Whether the IOTLB has all that the transaction needs; then Translator.answer has the outcome. Most end here. */
  #quick(transaction: Transaction): boolean {
    if (!this.#enabled || transaction.translated === true || transaction.unsupported !== undefined)
      return false;
    if (transaction.attributes !== undefined || transaction.atomic === true) return false;
    const context = this.#table.cached(transaction.streamId, transaction.substreamId ?? null);
    if (context === undefined) return false;
    return this.#translator.quick(
      context,
      transaction.hi,
      transaction.lo,
      needOf(context.stream, transaction),
    );
  }

  #transact(transaction: Transaction, waiting: StalledTransaction | null): Outcome {
    this.#iotlb.tidy();
    if (transaction.unsupported !== undefined) {
      const event = unsupportedEvent(transaction);
      return { kind: 'terminated', abort: true, event, recorded: this.#record(event, null) };
    }
    if (transaction.translated === true) return this.#ats.translated(transaction);
    if (!this.#enabled) return this.#globalBypass(transaction);
    let context = this.#table.cached(transaction.streamId, transaction.substreamId ?? null);
    if (context === undefined) {
      const found = this.#configure(transaction, waiting);
      if ('kind' in found) return found;
      context = found;
    }
    return this.#inContext(context, transaction, waiting);
  }

  /** §3.11: SMMUEN is 0. */
  #globalBypass(transaction: Transaction): Outcome {
    const gbpa = [this.#registers.get(OFFSET.GBPA)];
    if (readField(GBPA.ABORT, gbpa) !== 0) return ABORTED;
    const address = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
    if (address >= this.features.physicalLimit) return ABORTED;
    const input = transaction.attributes ?? DEFAULT_INPUT;
    const attributes = !this.features.typesOverride
      ? input
      : override(input, {
          mtcfg: readField(GBPA.MTCFG, gbpa) !== 0,
          memAttr: readField(GBPA.MemAttr, gbpa),
          alloccfg: readField(GBPA.ALLOCCFG, gbpa),
          shcfg: readField(GBPA.SHCFG, gbpa),
        });
    return { kind: 'translated', pa: address, attributes, bytes: 4096 - (transaction.lo & 4095) };
  }

  /** Looks configuration up, or ends the transaction. */
  #configure(transaction: Transaction, waiting: StalledTransaction | null): Context | Outcome {
    const stream = this.#table.stream(transaction.streamId);
    if (stream === null) {
      const fault = this.#table.fault!;
      if (fault.type === EVENT.C_BAD_STREAMID && !this.#cr2(CR2.RECINVSID.inPlace)) return ABORTED;
      return this.#terminate(configEvent(fault, transaction), null);
    }
    const { config } = stream;
    if (isIllegal(config)) {
      const fault = { type: EVENT.C_BAD_STE, fetch: 0, substreamId: 0, reason: config.illegal };
      return this.#terminate(configEvent(fault, transaction), null);
    }
    if (aborts(config)) return ABORTED;
    const context = this.#table.context(stream, transaction.substreamId ?? null);
    if (context !== null) return context;
    if (this.#table.fault !== null)
      return this.#terminate(configEvent(this.#table.fault, transaction), config);
    const access = accessOf(config, transaction);
    return this.#translationFault(this.#translator.fault!, access, transaction, config, null, waiting);
  }

  #inContext(context: Context, transaction: Transaction, waiting: StalledTransaction | null): Outcome {
    const { stream } = context;
    const input = transaction.attributes ?? DEFAULT_INPUT;
    if (context.cd === null) {
      const address = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
      // The IAS equals the OAS: stage 1 bypass checks either the same way (§3.4).
      if (address >= this.features.physicalLimit) {
        const event = translationEvent(ADDRESS_SIZE, transaction, accessOf(stream, transaction), null);
        return this.#terminate(event, stream);
      }
      if (stream.stage2 === null) {
        const attributes = bypassAttributes(stream, input);
        return { kind: 'translated', pa: address, attributes, bytes: 4096 - (transaction.lo & 4095) };
      }
    }
    const translator = this.#translator;
    const { hi, lo } = transaction;
    if (!translator.translate(context, hi, lo, needOf(stream, transaction), input)) {
      return this.#translationFault(
        translator.fault!,
        accessOf(stream, transaction),
        transaction,
        stream,
        context,
        waiting,
      );
    }
    // Atomic accesses read as well; where that alone is denied the record says so (§13.1.1).
    const privileged = effectivePrivilege(stream, transaction.privileged === true);
    const read = privileged ? PERM.PR : PERM.UR;
    if (transaction.atomic === true && !translator.translate(context, hi, lo, read, input)) {
      const access = { ...accessOf(stream, transaction), write: false };
      return this.#translationFault(translator.fault!, access, transaction, stream, context, waiting);
    }
    return translated(translator);
  }

  /** §5.5, §3.12: abort, RAZ/WI or stall, and whether an event is recorded. */
  #translationFault(
    fault: TranslationFault,
    access: AccessAttributes,
    transaction: Transaction,
    stream: StreamConfig,
    context: Context | null,
    waiting: StalledTransaction | null,
  ): Outcome {
    if (!TRANSLATION_RELATED.has(fault.type)) {
      return this.#terminate(translationEvent(fault, transaction, access, null), stream);
    }
    const cd = context?.cd ?? null;
    const stall = fault.stage2 ? stream.s2s : cd!.s;
    if (stall && transaction.stallable !== false)
      return this.#stalls.stall(fault, transaction, access, waiting);
    const event = translationEvent(fault, transaction, access, null);
    const abort = fault.stage2 || stall || this.features.abortOnly || cd!.a;
    const record = stall || (fault.stage2 ? stream.s2r : cd!.r);
    return { kind: 'terminated', abort, event, recorded: record && this.#record(event, stream) };
  }

  #terminate(event: EventRecord, stream: StreamConfig | null): Terminated {
    return { kind: 'terminated', abort: true, event, recorded: this.#record(event, stream) };
  }

  #record(event: EventRecord, stream: StreamConfig | null): boolean {
    return this.#events.record(event, this.config.mergeEvents && stream !== null && stream.mev);
  }

  /**
   * A device's access to `data.length` bytes, page by page as translation has them: into `data` for a read, out of it
   * for a write. It stops at the first page that is not translated; a page that is terminated as RAZ/WI reads as zero.
   */
  access(transaction: Transaction, data: Uint8Array): AccessResult {
    const scatter = new Scatter(this.#memory, data, transaction.write === true);
    const next = { ...transaction };
    for (let left = data.length; left > 0;) {
      const outcome = this.translate(next);
      const passes = outcome.kind === 'translated';
      if (!passes && (outcome.kind === 'stalled' || outcome.abort)) return scatter.end(outcome);
      // What is terminated without an abort reads as zeroes, and its writes are ignored.
      const bytes = Math.min(passes ? outcome.bytes : 4096 - (next.lo & 4095), left);
      if (!(passes ? scatter.add(outcome.pa, bytes) : scatter.skip(bytes)))
        return { done: scatter.done, stopped: 'bus' };
      left -= bytes;
      const lo = (next.lo >>> 0) + bytes;
      if (lo > 0xffff_ffff) next.hi = (next.hi + 1) >>> 0;
      next.lo = lo >>> 0;
    }
    return scatter.end(null);
  }

  // --- PCIe: ATS and PRI ---

  /** Connects a function's messages to it: CMD_ATC_INV, CMD_PRI_RESP and automatic responses reach it. */
  attachEndpoint(streamId: number, endpoint: Endpoint): void {
    this.#endpoints.set(streamId, endpoint);
  }

  detachEndpoint(streamId: number): void {
    this.#endpoints.delete(streamId);
  }

  /** An ATS Translation Request. */
  requestTranslation(request: AtsRequest): AtsCompletion {
    this.#iotlb.tidy();
    return this.#ats.request(request);
  }

  /** A PRI Page Request. Answers at once, to the endpoint and the caller, where the queue does not take it. */
  requestPage(request: PageRequest): PageResponse | null {
    if (!this.features.pri) return null;
    const response = this.#pri.request(request, (streamId) => this.#ppar(streamId, request));
    if (response !== null) this.#endpoints.get(request.streamId)?.pageResponse(response);
    return response;
  }

  /** STE.PPAR, or null where there is no valid STE (§8.1). */
  #ppar(streamId: number, request: PageRequest): boolean | null {
    const stream: CachedStream | null = this.#table.stream(streamId);
    const transaction = { streamId, substreamId: request.substreamId, hi: request.hi, lo: request.lo };
    const record = this.#cr2(CR2.REC_CFG_ATS.inPlace);
    if (stream === null) {
      const fault = this.#table.fault!;
      const wanted = fault.type !== EVENT.C_BAD_STREAMID || this.#cr2(CR2.RECINVSID.inPlace);
      if (record && wanted) this.#record(configEvent(fault, transaction), null);
      return null;
    }
    const { config } = stream;
    if (!isIllegal(config)) return config.ppar;
    const fault = { type: EVENT.C_BAD_STE, fetch: 0, substreamId: 0, reason: config.illegal };
    if (record) this.#record(configEvent(fault, transaction), null);
    return null;
  }

  /** A device's hint that it will access pages soon (§3.12.4.1). Dropped where the SMMU is disabled. */
  hintPages(hint: PageHint): boolean {
    return this.#enabled && this.#record(pageHintEvent(hint), null);
  }

  // --- for looking in from outside ---

  /** Transactions that wait for software. */
  get stalled(): number {
    return this.#stalls.size;
  }

  /** The cached STEs, with what was fetched through them. */
  cachedStreams(): Iterable<CachedStream> {
    return this.#table.streams();
  }

  get iotlb(): Iotlb {
    return this.#iotlb;
  }
}

function translated({ pa, attributes, bytes }: Translator): Outcome {
  return { kind: 'translated', pa, attributes, bytes };
}

/** The PERM bits that an access must have, after the STE's overrides; of an atomic one those to write. */
function needOf(stream: StreamConfig, transaction: Transaction): number {
  const write = transaction.write === true || transaction.atomic === true;
  let need: number = write ? PERM.PW : PERM.PR;
  if (effectiveInstruction(stream, transaction.instruction === true, write)) need = PERM.PX;
  return effectivePrivilege(stream, transaction.privileged === true) ? need : need << 3;
}

/** What event records say of an access (§7.3): after the STE's overrides. */
function accessOf(stream: StreamConfig, transaction: Transaction): AccessAttributes {
  // Atomic accesses fault as writes (§13.1.1).
  const write = transaction.write === true || transaction.atomic === true;
  return {
    write,
    instruction: effectiveInstruction(stream, transaction.instruction === true, write),
    privileged: effectivePrivilege(stream, transaction.privileged === true),
  };
}
