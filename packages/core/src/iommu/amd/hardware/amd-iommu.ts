// An AMD IOMMU: registers, tables and rings in memory, and requests of devices. What software can observe of an
// implementation is in this folder, by topic; this file puts it together.

import type { PhysicalMemory } from '../../../memory/physical.ts';
import { Scatter } from '../../../memory/scatter.ts';
import type { Trace } from '../../../trace/trace.ts';
import { CONTROL, OFFSET, STATUS } from '../spec/registers.ts';
import { ACCESS } from './translation/access.ts';
import { inInterruptRange } from './translation/addresses.ts';
import { ADMIT, Admission } from './configuration/admission.ts';
import { Ats, type AtsCompletion, type AtsRequest } from './translation/ats.ts';
import { CommandBuffer } from './queues/command-buffer.ts';
import { Commands } from './queues/commands.ts';
import { type AmdIommuConfig, type AmdIommuFeatures, amdIommuFeatures } from './registers/config.ts';
import { type CachedDevice, DeviceTable, type TableSegment } from './configuration/device-table.ts';
import type { Endpoint } from './endpoint.ts';
import { type Request, invalidPprEvent } from './queues/events.ts';
import { Faults } from './queues/faults.ts';
import { type Delivered, InterruptRemapper, type InterruptRequest } from './interrupt-remapper.ts';
import { Interrupts } from './registers/interrupts.ts';
import { FAST, Iotlb } from './translation/iotlb.ts';
import { Log } from './queues/log.ts';
import { type PageRequest, type PageResponse, PprLog, pprRecord } from './queues/ppr-log.ts';
import { NO_PASID, type QuickRoute, QuickRoutes } from './configuration/quick-routes.ts';
import { RegisterFile } from './registers/registers.ts';
import type { Aborted, InterruptSource, Msi, Outcome, Transaction } from './transaction.ts';
import { Translator } from './translation/translator.ts';
import { HardwareViommu } from './viommu/viommu.ts';

export interface AmdIommuOptions {
  readonly memory: PhysicalMemory;
  readonly config: AmdIommuConfig;
  readonly trace?: Trace;
  /** One of the IOMMU's own interrupts is signalled. */
  readonly onInterrupt?: (source: InterruptSource) => void;
  /** The message that carries it, where MSI or IntCapXTEn is enabled. */
  readonly onMsi?: (msi: Msi) => void;
  /** A device's interrupt that access() met, after remapping. */
  readonly onDeviceInterrupt?: (message: Msi) => void;
  /** With EFR.vIommuSup: the physical address of a guest's page in the VF BAR. */
  readonly guestPage?: (guestId: number) => number;
}

/** What access() did. */
export interface AccessResult {
  /** Bytes that were transferred. */
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. A translated address that memory refuses is 'bus'. */
  readonly stopped: Aborted | 'bus' | null;
}

const NOWHERE: Aborted = {
  kind: 'aborted',
  event: null,
  recorded: false,
  reason: 'the address has more than 52 bits',
};

export class AmdIommu {
  readonly config: AmdIommuConfig;
  readonly features: AmdIommuFeatures;
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #iotlb: Iotlb;
  readonly #translator: Translator;
  readonly #table: DeviceTable;
  readonly #eventLog: Log;
  readonly #pprRing: Log;
  readonly #pprLog: PprLog;
  readonly #faults: Faults;
  readonly #admission: Admission;
  readonly #routes: QuickRoutes;
  readonly #trace: Trace | null;
  /** What the IOTLB alone has answered last. */
  readonly #answer = { kind: 'translated' as const, pa: NaN, bytes: 0, forceCoherent: false };
  readonly #remapper: InterruptRemapper;
  readonly #buffer: CommandBuffer;
  readonly #ats: Ats;
  /** The hardware vIOMMU, where there is one. */
  readonly viommu: HardwareViommu | null;
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #onDeviceInterrupt: (message: Msi) => void;
  /** CONTROL's lower word when it last took effect. */
  #control = 0;
  /** CONTROL.IommuEn then. */
  #enabled = false;

  constructor({ memory, config, trace, onInterrupt, onMsi, onDeviceInterrupt, guestPage }: AmdIommuOptions) {
    const features = amdIommuFeatures(config);
    const watcher = trace ?? null;
    this.config = config;
    this.features = features;
    this.#memory = memory;
    this.#onDeviceInterrupt = onDeviceInterrupt ?? (() => {});
    const registers = new RegisterFile(config, features, watcher);
    this.#registers = registers;
    this.#interrupts = new Interrupts(registers, watcher, onInterrupt ?? (() => {}), onMsi ?? (() => {}));
    this.#iotlb = new Iotlb(config.caches.tlb, config.caches.tables, config.caches.gcr3);
    this.#translator = new Translator(memory, config, features, this.#iotlb, watcher);
    this.#table = new DeviceTable(memory, features, config.caches.devices, watcher);
    this.#iotlb.onStartOver = () => this.#table.forgetTags();
    this.#iotlb.onAge = () => this.#table.forgetRoute();
    this.#eventLog = new Log(memory, registers, this.#interrupts, {
      base: OFFSET.EVT_LOG_BASE,
      head: OFFSET.EVT_HEAD,
      tail: OFFSET.EVT_TAIL,
      run: STATUS.EventLogRun.inPlace,
      overflow: STATUS.EventOverflow.inPlace,
      interrupt: STATUS.EventLogInt.inPlace,
    });
    this.#pprRing = new Log(memory, registers, this.#interrupts, {
      base: OFFSET.PPR_LOG_BASE,
      head: OFFSET.PPR_HEAD,
      tail: OFFSET.PPR_TAIL,
      run: STATUS.PprLogRun.inPlace,
      overflow: STATUS.PprOverflow.inPlace,
      interrupt: STATUS.PprInt.inPlace,
    });
    this.#pprLog = new PprLog(registers, this.#interrupts, this.#pprRing, watcher);
    this.#faults = new Faults(features, registers, this.#eventLog, watcher);
    this.#admission = new Admission(features, registers, this.#table, this.#faults);
    this.#routes = new QuickRoutes(features, this.#table, this.#admission, this.#iotlb);
    this.#trace = watcher;
    this.#remapper = new InterruptRemapper(
      memory,
      registers,
      this.#table,
      this.#admission,
      this.#faults,
      config.caches.interrupts,
      watcher,
    );
    const commands = new Commands({
      memory,
      features,
      registers,
      table: this.#table,
      iotlb: this.#iotlb,
      remapper: this.#remapper,
      interrupts: this.#interrupts,
      faults: this.#faults,
      endpoints: this.#endpoints,
      prefetch: (deviceId, pasid, hi, lo) => this.#prefetch(deviceId, pasid, hi, lo),
    });
    this.#buffer = new CommandBuffer(memory, registers, commands, this.#faults, watcher);
    this.#ats = new Ats(this.#admission, this.#translator, this.#faults);
    this.viommu =
      features.viommu && guestPage !== undefined
        ? new HardwareViommu({
            memory,
            registers,
            commands,
            table: this.#table,
            iotlb: this.#iotlb,
            remapper: this.#remapper,
            translator: this.#translator,
            faults: this.#faults,
            trace: watcher,
            page: guestPage,
            commandsPerStep: config.commandsPerStep,
          })
        : null;
    const { viommu } = this;
    if (viommu !== null) this.#faults.toGuest = (device, event) => viommu.report(device.config, event);
    registers.onChange = (offset) => this.#changed(offset);
    this.#readSegments();
  }

  /** Everything as after power-on. */
  reset(): void {
    this.#registers.reset();
    this.#interrupts.reset();
    this.#control = 0;
    this.#admission.epoch++;
    this.#table.forgetRoute();
    this.#table.invalidateAll();
    this.#iotlb.invalidateAll();
    this.#remapper.invalidateAll();
    this.viommu?.reset();
    this.#controlChanged();
  }

  // --- registers ---

  /** Reads 4 or 8 bytes at an MMIO offset. */
  readRegister(offset: number, size: number): bigint {
    // Time passes while software polls: commands beyond one write's budget are consumed.
    if (offset === OFFSET.CMD_HEAD || offset === OFFSET.STATUS) this.#buffer.run(this.config.commandsPerStep);
    return this.#registers.read(offset, size);
  }

  writeRegister(offset: number, size: number, value: bigint): void {
    this.#registers.write(offset, size, value);
  }

  /** Goes on with the commands that a register write has left. True while there are more. */
  step(): boolean {
    this.#buffer.run(this.config.commandsPerStep);
    return this.#buffer.pending;
  }

  /** Reads 4 bytes of the PCI function's capability blocks: the IOMMU's at 00h (§3.2), MSI's at 24h. */
  readCapability(offset: number): number {
    return this.#registers.readCapability(offset);
  }

  writeCapability(offset: number, value: number): void {
    this.#registers.writeCapability(offset, value);
  }

  #changed(offset: number): void {
    this.#admission.epoch++;
    this.#table.forgetRoute();
    switch (offset) {
      case OFFSET.CONTROL:
        return this.#controlChanged();
      case OFFSET.CMD_BUF_BASE:
        return this.#buffer.rewind();
      case OFFSET.EVT_LOG_BASE:
        return this.#eventLog.rewind();
      case OFFSET.PPR_LOG_BASE:
        return this.#pprRing.rewind();
      case OFFSET.CMD_TAIL:
      case OFFSET.CMD_HEAD:
        this.#buffer.run(this.config.commandsPerStep);
        return;
      case OFFSET.STATUS:
      case OFFSET.PPR_OVERFLOW_EARLY:
        return this.#interrupts.update();
      default:
        if (
          offset === OFFSET.DEV_TAB_BASE ||
          (offset >= OFFSET.DEV_TAB_SEG1 && offset < OFFSET.MSI_VECTOR0)
        ) {
          this.#readSegments();
        }
    }
  }

  /** Rings start when IommuEn and their enable come to be both set, and stop when they are not (0018h, 2020h). */
  #controlChanged(): void {
    const before = this.#control;
    const after = this.#registers.get(OFFSET.CONTROL);
    this.#control = after;
    this.#enabled = (after & CONTROL.IommuEn.inPlace) !== 0;
    const edge = (bit: number, enable: (on: boolean) => void): void => {
      const bits = CONTROL.IommuEn.inPlace | bit;
      const on = (after & bits) === bits;
      if (on !== ((before & bits) === bits)) enable(on);
    };
    edge(CONTROL.EventLogEn.inPlace, (on) => this.#eventLog.enable(on));
    edge(CONTROL.PPRLogEn.inPlace, (on) => this.#pprRing.enable(on));
    edge(CONTROL.CmdBufEn.inPlace, (on) => this.#buffer.enable(on));
    this.#translator.guestRoots.control = {
      gcr3Gpa: this.#registers.control(CONTROL.GCR3TRPMode) !== 0,
      updateAccessed: this.#registers.control(CONTROL.GAUpdateDis) === 0,
      updateDirty: this.#registers.control(CONTROL.GDUpdateDis) === 0,
    };
    this.#readSegments();
    this.#interrupts.update();
    this.#buffer.run(this.config.commandsPerStep);
  }

  /** DevTblSegEn segments, by the upper bits of the DeviceID; none has more entries than it can be asked for. */
  #readSegments(): void {
    const count = 1 << this.#registers.control(CONTROL.DevTblSegEn);
    const segments: TableSegment[] = [];
    for (let i = 0; i < count; i++) {
      const offset = i === 0 ? OFFSET.DEV_TAB_BASE : OFFSET.DEV_TAB_SEG1 + 8 * (i - 1);
      const size = this.#registers.get(offset) & (i === 0 ? 0x1ff : 0xff);
      segments.push({ base: this.#registers.address(offset), entries: (size + 1) * 128 });
    }
    this.#table.segments = segments;
  }

  // --- transactions ---

  /** What becomes of a transaction. What a translated outcome says holds until the next transaction. */
  translate(transaction: Transaction): Outcome {
    const { hi, lo, execute, privileged, translated, atomic } = transaction;
    const route =
      // Not `!`: what else could be false would be looked at.
      this.#enabled !== true ||
      execute === true ||
      privileged === true ||
      translated === true ||
      atomic === true
        ? null
        : this.#route(transaction.deviceId, transaction.pasid ?? NO_PASID);
    if (route !== null && (hi & route.tooHi) === 0 && (this.#trace === null || !this.#trace.active)) {
      const { cache, entries, mask, value } = route;
      const need = transaction.write === true ? route.write : route.read;
      const answer = this.#answer;
      const word = cache.answer(entries, route.tag.id, 0, hi, lo, need | mask, need | value, answer);
      if (word !== 0) {
        answer.forceCoherent = ((word | route.always) & FAST.COHERENT) !== 0;
        return answer;
      }
    }
    return this.#translate(transaction);
  }

  #route(deviceId: number, pasid: number): QuickRoute | null {
    const last = this.#table.lastRoute;
    return last !== null && last.deviceId === deviceId && last.pasid === pasid
      ? last
      : this.#routes.find(deviceId, pasid);
  }

  #translate(transaction: Transaction): Outcome {
    this.#iotlb.tidy();
    const hi = transaction.hi >>> 0;
    const lo = transaction.lo >>> 0;
    if (!this.#enabled) return forwarded(hi, lo);
    const device = transaction.translated === true ? null : this.#table.known(transaction.deviceId);
    if (device !== null) {
      const admitted = this.#admission.admitted(device);
      const pasid = transaction.pasid ?? null;
      if (pasid !== null) {
        if ((admitted & ADMIT.PASID) !== 0) return this.#guest(device, pasid, false, hi, lo, transaction);
      } else if (!inInterruptRange(hi, lo)) {
        if ((admitted & ADMIT.HOST) !== 0) return this.#host(device, hi, lo, transaction);
        if ((admitted & ADMIT.GUEST) !== 0) return this.#guest(device, 0, true, hi, lo, transaction);
      }
    }
    const route = this.#admission.route(asRequest(transaction), transaction.translated === true);
    switch (route.kind) {
      case 'aborted':
      case 'interrupt':
        return route;
      case 'forward':
        return forwarded(hi, lo);
      case 'host':
        return this.#host(route.device, hi, lo, transaction);
      case 'guest':
        return this.#guest(route.device, route.pasid, route.extend, hi, lo, transaction);
    }
  }

  #host(device: CachedDevice, hi: number, lo: number, transaction: Transaction): Outcome {
    const { config } = device;
    const need = accessOf(transaction);
    const translator = this.#translator;
    if (config.host === null && (config.rights & need) === need && hi >= 0x10_0000) return NOWHERE;
    if (!translator.translate(device, hi, lo, need, need, true)) {
      return this.#faults.translation(asRequest(transaction), translator.fault!, device);
    }
    const { pa, forceCoherent } = translator;
    const bytes = this.#admission.untilSpecial(config, hi, lo, translator.bytes);
    return { kind: 'translated', pa, bytes, forceCoherent };
  }

  #guest(
    device: CachedDevice,
    pasid: number,
    extend: boolean,
    hi: number,
    lo: number,
    transaction: Transaction,
  ): Outcome {
    let need = accessOf(transaction);
    // Requests without a PASID neither execute nor are they privileged.
    if (!extend && need === ACCESS.READ && transaction.execute === true) need |= ACCESS.EXECUTE;
    const privileged = !extend && transaction.privileged === true;
    const translator = this.#translator;
    if (!translator.translateGuest(device, pasid, extend, hi, lo, need, need, privileged, true)) {
      // A guest fault without a PASID (DTE.GIOV) is told with PASID 0.
      return this.#faults.translation({ ...asRequest(transaction), pasid }, translator.fault!, device);
    }
    const { pa, bytes, forceCoherent } = translator;
    return { kind: 'translated', pa, bytes, forceCoherent };
  }

  /** A device's write to the interrupt range: FEE0_0000h to FEEF_FFFFh. */
  interrupt(request: InterruptRequest): Delivered | Aborted {
    return this.#remapper.interrupt(request);
  }

  /**
   * A device's access to `data.length` bytes, page by page as translation has them: into `data` for a read, out of it
   * for a write. It stops at the first page that is not translated. Four aligned bytes written to the interrupt range
   * are an interrupt.
   */
  access(transaction: Transaction, data: Uint8Array): AccessResult {
    const scatter = new Scatter(this.#memory, data, transaction.write === true);
    const next = copyOf(transaction);
    for (let at = 0; at < data.length;) {
      const outcome = this.translate(next);
      if (outcome.kind !== 'translated' && !scatter.flush()) return { done: scatter.done, stopped: 'bus' };
      if (outcome.kind === 'aborted') return { done: scatter.done, stopped: outcome };
      if (outcome.kind === 'interrupt') {
        const stopped = this.#message(next.deviceId, next.lo, data.subarray(at));
        return { done: stopped === null ? data.length : at, stopped };
      }
      const bytes = Math.min(outcome.bytes, data.length - at);
      if (!scatter.add(outcome.pa, bytes)) return { done: scatter.done, stopped: 'bus' };
      at += bytes;
      const lo = next.lo + bytes;
      if (lo > 0xffff_ffff) next.hi = (next.hi + Math.floor(lo / 0x1_0000_0000)) >>> 0;
      next.lo = lo >>> 0;
    }
    return scatter.end(null);
  }

  #message(deviceId: number, address: number, bytes: Uint8Array): Aborted | null {
    if (bytes.length !== 4 || address % 4 !== 0 || !inInterruptRange(0, address)) {
      return {
        kind: 'aborted',
        event: null,
        recorded: false,
        reason: 'an interrupt is a write of 4 aligned bytes',
      };
    }
    const data = (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0;
    const outcome = this.interrupt({ deviceId, address, data });
    if (outcome.kind === 'aborted') return outcome;
    this.#onDeviceInterrupt(outcome.message);
    return null;
  }

  /** PREFETCH_IOMMU_PAGES: page faults are logged, and permissions are not looked at. */
  #prefetch(deviceId: number, pasid: number | null, hi: number, lo: number): void {
    const request = asRequest({ deviceId, pasid, hi, lo });
    const route = this.#admission.route(request, false);
    if (route.kind !== 'host' && route.kind !== 'guest') return;
    const { device } = route;
    if (route.kind === 'host' && device.config.host === null) return;
    const translator = this.#translator;
    const done =
      route.kind === 'host'
        ? translator.translate(device, hi, lo, 0, 0, true)
        : translator.translateGuest(device, route.pasid, route.extend, hi, lo, 0, 0, true, true);
    if (!done) this.#faults.translation(request, translator.fault!, device);
  }

  // --- PCIe: ATS and PRI ---

  /** Connects a function's messages to it: INVALIDATE_IOTLB_PAGES, COMPLETE_PPR_REQUEST and automatic responses. */
  attachEndpoint(deviceId: number, endpoint: Endpoint): void {
    this.#endpoints.set(deviceId, endpoint);
  }

  detachEndpoint(deviceId: number): void {
    this.#endpoints.delete(deviceId);
  }

  /** An ATS Translation Request. */
  requestTranslation(asked: AtsRequest): AtsCompletion {
    this.#iotlb.tidy();
    if (!this.features.iotlb || !this.#registers.enabled(CONTROL.IommuEn.inPlace)) {
      return { status: 'UR', entry: null, event: null, recorded: false };
    }
    return this.#ats.request(asked, { ...asRequest(asked), translation: true });
  }

  /**
   * A PRI Page Request (§2.6). Answers at once, to the endpoint and the caller, where an automatic response is sent;
   * requests that the DTE does not allow are events, and wait for software like the others.
   */
  requestPage(asked: PageRequest): PageResponse | null {
    const enables = CONTROL.IommuEn.inPlace | CONTROL.PPREn.inPlace;
    if (!this.features.ppr || (this.#registers.get(OFFSET.CONTROL) & enables) !== enables) return null;
    const device = this.#table.device(asked.deviceId);
    const request = asRequest({ ...asked, privileged: asked.privileged });
    if (device === null) {
      this.#admission.noDevice(request);
      return null;
    }
    const { config } = device;
    const enhanced = this.#registers.control(CONTROL.EPHEn) !== 0;
    const guest = config.gv && this.#registers.enabled(CONTROL.GTEn.inPlace);
    if (!config.v || !config.iotlb || (enhanced && !config.ppr) || (asked.pasid !== null && !guest)) {
      this.#faults.record(invalidPprEvent(request, asked.prgIndex | (asked.last ? 0x200 : 0)));
      return null;
    }
    if (this.viommu?.requestPage(config, pprRecord(asked)) === true) return null;
    const response = this.#pprLog.request(asked);
    if (response !== null) this.#endpoints.get(asked.deviceId)?.pageResponse(response);
    return response;
  }

  // --- for looking in from outside ---

  /** The cached DTEs. */
  cachedDevices(): Iterable<CachedDevice> {
    return this.#table.cached();
  }

  get iotlb(): Iotlb {
    return this.#iotlb;
  }

  /** Interrupt remapping table entries in the cache. */
  get cachedInterrupts(): number {
    return this.#remapper.cached;
  }
}

/** A copy that can be changed. Always of one shape, and written out: that is less than spreading. */
function copyOf(of: Transaction) {
  return {
    deviceId: of.deviceId,
    pasid: of.pasid ?? null,
    hi: of.hi >>> 0,
    lo: of.lo >>> 0,
    write: of.write === true,
    execute: of.execute === true,
    privileged: of.privileged === true,
    atomic: of.atomic === true,
    translated: of.translated === true,
  };
}

function asRequest(
  asked: Omit<Transaction, 'translated' | 'atomic'> & { readonly atomic?: boolean },
): Request {
  const pasid = asked.pasid ?? null;
  return {
    deviceId: asked.deviceId,
    pasid,
    hi: asked.hi >>> 0,
    lo: asked.lo >>> 0,
    write: asked.write === true || asked.atomic === true,
    execute: pasid !== null && asked.execute === true && asked.write !== true,
    privileged: pasid !== null && asked.privileged === true,
    translation: false,
    interrupt: false,
  };
}

/** Reads or writes, or both. */
function accessOf({ write, atomic }: Transaction): number {
  if (atomic === true) return ACCESS.READ | ACCESS.WRITE;
  return write === true ? ACCESS.WRITE : ACCESS.READ;
}

function forwarded(hi: number, lo: number): Outcome {
  if (hi >= 0x10_0000) return NOWHERE;
  return {
    kind: 'translated',
    pa: hi * 0x1_0000_0000 + lo,
    bytes: 4096 - (lo & 0xfff),
    forceCoherent: false,
  };
}
