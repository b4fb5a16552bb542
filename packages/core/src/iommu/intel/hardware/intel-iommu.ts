// VT-d remapping hardware: registers, tables and queues in memory, and requests of devices. What software can observe
// of an implementation is in this folder, by topic; this file puts it together.

import type { PhysicalMemory } from '../../../memory/physical.ts';
import { Scatter } from '../../../memory/scatter.ts';
import type { Trace } from '../../../trace/trace.ts';
import { NO_CACHE, type TranslationCache } from '../../caches/cache.ts';
import { ADDRESS_TYPE, FAULT, type FaultCondition } from '../spec/faults.ts';
import { GSTS, ICS, OFFSET, RTADDR, TTM, type Ttm } from '../spec/registers.ts';
import { Ats, type AtsCompletion, type AtsRequest, isInterrupt, typeOf } from './translation/ats.ts';
import { type IntelConfig, type IntelFeatures, intelFeatures } from './registers/config.ts';
import { ConfigTable, NO_PASID, type Route } from './configuration/config-table.ts';
import { DeviceTlbs } from './queues/device-tlbs.ts';
import type { Endpoint, PageResponse } from './endpoint.ts';
import { FaultLog } from './queues/fault-log.ts';
import { Interrupts } from './registers/interrupts.ts';
import { InvalidationQueue } from './queues/invalidation-queue.ts';
import { Invalidations } from './queues/invalidations.ts';
import { ENTRY, Iotlb } from './translation/iotlb.ts';
import { PageRequestQueue, type PageRequest } from './queues/page-request-queue.ts';
import { PageRequests } from './queues/page-requests.ts';
import { type RegisterChange, RegisterFile } from './registers/registers.ts';
import type { Blocked, EventInterrupt, Fault, FaultedRequest, Outcome, Transaction } from './transaction.ts';
import { NEED, type Need, Translator } from './translation/translator.ts';

export interface IntelIommuOptions {
  readonly memory: PhysicalMemory;
  readonly config: IntelConfig;
  readonly trace?: Trace;
  /** One of the hardware's own events sends its message. */
  readonly onInterrupt?: (interrupt: EventInterrupt) => void;
  /** A device's interrupt request came: access() hands it on, as interrupts are not remapped. */
  readonly onDeviceInterrupt?: (requesterId: number, address: number, data: number) => void;
}

/** What access() did. */
export interface AccessResult {
  /** Bytes that were transferred. */
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. A translated address that memory refuses is 'bus'. */
  readonly stopped: Blocked | 'bus' | null;
}

export class IntelIommu {
  readonly config: IntelConfig;
  readonly features: IntelFeatures;
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #iotlb: Iotlb;
  readonly #translator: Translator;
  readonly #table: ConfigTable;
  readonly #faults: FaultLog;
  readonly #devices: DeviceTlbs;
  readonly #invalidations: Invalidations;
  readonly #queue: InvalidationQueue;
  readonly #ats: Ats;
  readonly #pageQueue: PageRequestQueue;
  readonly #pageRequests: PageRequests;
  readonly #onDeviceInterrupt: (requesterId: number, address: number, data: number) => void;
  /** The IOTLB's entries. */
  readonly #cache: TranslationCache = NO_CACHE;
  readonly #trace: Trace | null;
  /** What the IOTLB has answered last. */
  readonly #answer = { kind: 'translated' as const, pa: NaN, bytes: 0, snoop: false };
  /** GSTS.TES */
  #enabled = false;

  constructor({ memory, config, trace, onInterrupt, onDeviceInterrupt }: IntelIommuOptions) {
    const features = intelFeatures(config);
    const watcher = trace ?? null;
    this.config = config;
    this.features = features;
    this.#memory = memory;
    this.#onDeviceInterrupt = onDeviceInterrupt ?? (() => {});
    this.#registers = new RegisterFile(config, features, watcher);
    this.#interrupts = new Interrupts(this.#registers, watcher, onInterrupt ?? (() => {}));
    this.#iotlb = new Iotlb(config.caches.tlb, config.caches.tables);
    this.#cache = this.#iotlb.cache;
    this.#trace = watcher;
    this.#translator = new Translator(memory, features, this.#iotlb, watcher);
    this.#table = new ConfigTable(memory, config, features, this.#iotlb, watcher);
    this.#iotlb.onStartOver = () => this.#table.forgetTags();
    this.#faults = new FaultLog(config, features, this.#registers, this.#interrupts, watcher);
    this.#devices = new DeviceTlbs(this.#faults);
    this.#invalidations = new Invalidations({
      memory,
      features,
      registers: this.#registers,
      table: this.#table,
      iotlb: this.#iotlb,
      interrupts: this.#interrupts,
      devices: this.#devices,
    });
    this.#queue = new InvalidationQueue(
      memory,
      features,
      this.#registers,
      this.#table,
      this.#faults,
      this.#invalidations,
      watcher,
    );
    const report = (fault: Fault, request: FaultedRequest): boolean => this.#faults.report(fault, request);
    this.#ats = new Ats(features, this.#table, this.#translator, () => this.#enabled, report);
    this.#pageQueue = new PageRequestQueue(memory, this.#registers, this.#interrupts, watcher);
    this.#pageRequests = new PageRequests(features, this.#table, this.#iotlb, this.#pageQueue, report);
    this.#registers.onChange = (change) => this.#changed(change);
  }

  /** Everything as after power-on. */
  reset(): void {
    this.#registers.reset();
    this.#enabled = false;
    this.#table.root = { address: 0, ttm: TTM.LEGACY, ioReadWrite: false };
    this.#table.invalidateAllContexts();
    this.#table.invalidateAllPasids();
    this.#iotlb.startOver();
    this.#faults.restart();
    this.#devices.reset();
  }

  // --- registers ---

  /** Reads 4 or 8 bytes at an offset of the register file. */
  readRegister(offset: number, size: number): bigint {
    // Time passes while software polls: descriptors beyond one write's budget are taken.
    if (offset === OFFSET.IQH) this.#run();
    return this.#registers.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): void {
    this.#registers.write(offset, size, value);
  }

  /** Goes on with what a register write has left: commands and descriptors. True while more of that can be done. */
  step(): boolean {
    this.#registers.completeCommands();
    return this.#run() > 0 && this.#queue.pending;
  }

  #run(): number {
    return this.#queue.run(this.config.descriptorsPerStep);
  }

  #changed(change: RegisterChange): void {
    switch (change) {
      case 'SRTP':
        return this.#setRootTable();
      case 'TE':
        return this.#translationChanged();
      case 'QIE':
        this.#queue.configure();
        this.#run();
        return;
      case 'CCMD':
        return this.#invalidations.contextCommand();
      case 'IOTLB':
        return this.#invalidations.iotlbCommand();
      case 'FSTS':
        this.#faults.serviced();
        this.#run();
        return;
      case 'FRCD':
        return this.#faults.serviced();
      case 'FECTL':
        return this.#interrupts.unmasked('fault');
      case 'ICS':
        if ((this.#registers.get(OFFSET.ICS) & ICS.IWC.inPlace) === 0)
          this.#interrupts.serviced('invalidation');
        return;
      case 'IECTL':
        return this.#interrupts.unmasked('invalidation');
      case 'IQT':
        this.#run();
        return;
      case 'PRS':
        return this.#pageQueue.serviced();
      case 'PECTL':
        return this.#interrupts.unmasked('page-request');
    }
  }

  /** §6.6: the address and the mode take effect; with ESRTPS the caches are emptied. */
  #setRootTable(): void {
    const lo = this.#registers.get(OFFSET.RTADDR);
    this.#table.root = {
      address: this.#registers.getAddress(OFFSET.RTADDR, 12),
      ttm: ((lo >>> RTADDR.TTM.shift) & RTADDR.TTM.mask) as Ttm,
      ioReadWrite: (lo & RTADDR.SSIRWE.inPlace) !== 0,
    };
    this.#table.forgetTags();
    if (this.features.esrtps) this.#invalidateEverything();
  }

  /** §11.4.4.1 TE: with SMTS, disabling empties the caches. The index of fault recording starts over (§7.2.1). */
  #translationChanged(): void {
    this.#enabled = this.#registers.enabled(GSTS.TES.inPlace);
    if (this.#enabled) return;
    this.#faults.restart();
    if (this.features.smts) this.#invalidateEverything();
  }

  #invalidateEverything(): void {
    this.#table.invalidateAllContexts();
    this.#table.invalidateAllPasids();
    this.#iotlb.invalidateAll();
  }

  // --- requests ---

  /**
   * What becomes of a request. What a translated outcome says holds until the next request. Most requests end here, by
   * an IOTLB entry that has all they need.
   */
  translate(transaction: Transaction): Outcome {
    const { hi, lo, execute, privileged, atomic } = transaction;
    const known =
      // Not `!`: what else could be false would be looked at.
      this.#enabled !== true || execute === true || privileged === true || atomic === true
        ? null
        : this.#table.cached(transaction.requesterId, transaction.pasid ?? NO_PASID);
    if (known !== null && (hi & known.quickTop) === 0 && (this.#trace === null || !this.#trace.active)) {
      const { entries, id } = known.quickSpace;
      const { mask, entry } = transaction.write === true ? NEED.WRITE : NEED.READ;
      const answer = this.#answer;
      const word = this.#cache.answer(entries, id, 0, hi, lo, mask, entry, answer);
      if (word !== 0 && transaction.translated !== true && transaction.length !== 0) {
        answer.snoop = (word & ENTRY.SNOOP) !== 0;
        return answer;
      }
    }
    return this.#translate(transaction);
  }

  #translate(transaction: Transaction): Outcome {
    this.#iotlb.tidy();
    const pasid = transaction.pasid ?? null;
    if (transaction.translated === true) return this.#ats.translated(transaction);
    if (pasid === null && transaction.hi === 0 && isInterrupt(transaction.lo >>> 0)) {
      return this.#interruptRange(transaction);
    }
    if (!this.#enabled) {
      const pa = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
      return { kind: 'translated', pa, bytes: 4096 - (pa % 4096), snoop: false };
    }
    if (pasid !== null && transaction.execute === true) return this.#executeRequest(transaction, pasid);
    const known = this.#table.cached(transaction.requesterId, pasid ?? NO_PASID);
    if (known !== null) return this.#inRoute(known, transaction, pasid);
    const route = this.#route(transaction, pasid);
    if ('condition' in route) return this.#block(transaction, route);
    return this.#inRoute(route, transaction, pasid);
  }

  /** §3.15: interrupts and flushes bypass remapping, other requests-without-PASID to the range are illegal. */
  #interruptRange(transaction: Transaction): Outcome {
    const length = transaction.length ?? 4;
    const write = transaction.write === true && transaction.atomic !== true;
    const flush = transaction.write !== true && transaction.atomic !== true && length === 0;
    if (flush || (write && length === 4)) return { kind: 'interrupt', address: transaction.lo >>> 0 };
    if (!this.#enabled) return { kind: 'blocked', status: 'UR', fault: null, recorded: false };
    return this.#block(transaction, { condition: FAULT.IR_29, fpd: false });
  }

  /** Finds the entries of a request in the tables, or its fault. */
  #route(transaction: Transaction, pasid: number | null): Route | Fault {
    const table = this.#table;
    const wrong = table.rootFault(pasid !== null);
    if (wrong !== null) return { condition: wrong, fpd: false };
    const context = table.context(transaction.requesterId);
    if (context === null) return table.fault!;
    return table.route(transaction.requesterId, context, pasid) ?? table.fault!;
  }

  /** Execute requests are not supported: RTA.5 or SPT.5, by version. */
  #executeRequest(transaction: Transaction, pasid: number): Blocked {
    const wrong = this.#table.rootFault(true) ?? (this.features.major >= 8 ? FAULT.RTA_5 : null);
    if (wrong !== null) return this.#block(transaction, { condition: wrong, fpd: false });
    const route = this.#route(transaction, pasid);
    if ('condition' in route) return this.#block(transaction, route);
    return this.#block(transaction, { condition: FAULT.SPT_5, fpd: route.fpd });
  }

  #inRoute(route: Route, transaction: Transaction, pasid: number | null): Outcome {
    const supervisor = pasid === null ? route.ridPrivileged : transaction.privileged === true;
    if (supervisor && !route.entry.supervisor) return this.#blockIn(route, transaction, FAULT.SPT_6);
    const translator = this.#translator;
    const need = needOf(transaction, supervisor, this.features.zlr);
    if (!translator.translate(route, transaction.hi, transaction.lo, need)) {
      return this.#blockIn(route, transaction, translator.fault!);
    }
    const { pa } = translator;
    if (isInterrupt(pa)) {
      return this.#blockIn(route, transaction, route.entry.legacy ? FAULT.LGN_4 : FAULT.SGN_8_1);
    }
    return { kind: 'translated', pa, bytes: translator.bytes, snoop: translator.snoop };
  }

  #blockIn(route: Route, transaction: Transaction, condition: FaultCondition): Blocked {
    return this.#block(transaction, { condition, fpd: route.fpd });
  }

  #block(transaction: Transaction, fault: Fault): Blocked {
    const recorded = this.#faults.report(fault, {
      requesterId: transaction.requesterId,
      pasid: transaction.pasid ?? null,
      hi: transaction.hi,
      lo: transaction.lo,
      type: typeOf(transaction),
      addressType: ADDRESS_TYPE.UNTRANSLATED,
      privileged: transaction.privileged === true,
      execute: transaction.execute === true,
    });
    return { kind: 'blocked', status: 'UR', fault: fault.condition, recorded };
  }

  /**
   * A device's access to `data.length` bytes: into `data` for a read, out of it for a write. Requests do not cross
   * 4-KByte pages (§3.13); it stops at the first one that is blocked.
   */
  access(transaction: Transaction, data: Uint8Array): AccessResult {
    const scatter = new Scatter(this.#memory, data, transaction.write === true);
    const next = packetOf(transaction);
    for (let at = 0; at < data.length;) {
      const length = Math.min(4096 - (next.lo & 4095), data.length - at);
      next.length = length;
      const outcome = this.translate(next);
      if (outcome.kind === 'blocked') return scatter.end(outcome);
      const interrupt = outcome.kind === 'interrupt';
      if (!(interrupt ? scatter.skip(length) : scatter.add(outcome.pa, length)))
        return { done: scatter.done, stopped: 'bus' };
      if (interrupt) this.#onDeviceInterrupt(next.requesterId, outcome.address, load32(data, at));
      at += length;
      const lo = (next.lo >>> 0) + length;
      if (lo > 0xffff_ffff) next.hi = (next.hi + 1) >>> 0;
      next.lo = lo >>> 0;
    }
    return scatter.end(null);
  }

  // --- PCIe: ATS and PRI ---

  /** Connects a function: invalidations of its Device-TLB and responses to its page requests reach it. */
  attachEndpoint(requesterId: number, endpoint: Endpoint): void {
    this.#devices.attach(requesterId, endpoint);
  }

  detachEndpoint(requesterId: number): void {
    this.#devices.detach(requesterId);
  }

  /** A translation request. */
  requestTranslation(request: AtsRequest): AtsCompletion {
    this.#iotlb.tidy();
    return this.#ats.request(request);
  }

  /** An Invalidation Completion message, for ITags that an endpoint answered 'pending' to. */
  completeInvalidation(requesterId: number, itags: readonly number[]): void {
    this.#devices.complete(requesterId, itags);
    this.#run();
  }

  /** The completion time-out of every pending Device-TLB invalidation expires. True where there was one. */
  timeOutInvalidations(): boolean {
    return this.#devices.timeOut();
  }

  /** A page request. Answers at once, to the endpoint and the caller, where the queue does not take it. */
  requestPage(request: PageRequest): PageResponse | null {
    if (!this.features.prs || !this.#enabled) return null;
    this.#iotlb.tidy();
    const response = this.#pageRequests.request(request);
    if (response !== null) this.#devices.respond(response);
    return response;
  }

  // --- for looking in from outside ---

  get iotlb(): Iotlb {
    return this.#iotlb;
  }

  /** Entries in the context-cache and the PASID-cache. */
  get cachedEntries(): { readonly contexts: number; readonly pasids: number } {
    return { contexts: this.#table.cachedContexts, pasids: this.#table.cachedPasids };
  }

  /** Every register, with the bits that software can write. */
  get registers(): Iterable<{ readonly spec: { readonly name: string; readonly offset: number } }> {
    return this.#registers.registers();
  }
}

function needOf(transaction: Transaction, supervisor: boolean, zlr: boolean): Need {
  if (transaction.atomic === true) return supervisor ? NEED.SUPERVISOR_ATOMIC : NEED.ATOMIC;
  if (transaction.write === true) return supervisor ? NEED.SUPERVISOR_WRITE : NEED.WRITE;
  if (transaction.length === 0 && zlr) return supervisor ? NEED.SUPERVISOR_ZERO_LENGTH : NEED.ZERO_LENGTH;
  return supervisor ? NEED.SUPERVISOR_READ : NEED.READ;
}

/** A copy that can be changed. Always of one shape, and written out: spreading and adding to it is a call. */
function packetOf(of: Transaction) {
  return {
    requesterId: of.requesterId,
    pasid: of.pasid ?? null,
    hi: of.hi,
    lo: of.lo,
    write: of.write === true,
    atomic: of.atomic === true,
    privileged: of.privileged === true,
    execute: of.execute === true,
    length: 0,
    translated: of.translated === true,
  };
}

function load32(data: Uint8Array, at: number): number {
  return (data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) | (data[at + 3]! << 24)) >>> 0;
}
