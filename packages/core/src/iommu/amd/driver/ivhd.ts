import { readField } from '../../../base/bit-fields.ts';
import { failed, type Result } from '../../../base/result.ts';
import { DeferredInterrupts } from '../../drivers/deferred-interrupts.ts';
import type { Kernel, PhysicalIommu } from '../../driver.ts';
import { Mmio, type RegisterBus } from '../../drivers/mmio.ts';
import { CAP, CAP_HEADER } from '../spec/features.ts';
import { OFFSET } from '../spec/registers.ts';
import { enableIommu, disableIommu } from './bring-up.ts';
import { CommandBuffer } from './queues/command-buffer.ts';
import {
  ALL,
  invalidateAll,
  invalidateDte,
  invalidateInterruptTable,
  invalidatePages,
} from './queues/commands.ts';
import type { Command } from './queues/commands.ts';
import type { AmdIommuDevice } from './device.ts';
import type { AmdIommuDriver } from './driver.ts';
import { serveEventLog } from './queues/events.ts';
import type { AmdPlatform } from './features.ts';
import { LogRing } from './queues/log-ring.ts';
import { servePprLog } from './queues/ppr.ts';
import { ViommuResources, type ViommuBars } from '../viommu/resources.ts';
import type { PciSegment, SegmentOptions } from './configuration/segment.ts';

// One AMD IOMMU: struct amd_iommu, which sysfs calls ivhdN.

export type IvhdInterrupt = 'event-log' | 'ppr-log' | 'completion-wait';

/** What its PCI function is asked. */
export interface CapabilityBlock {
  readCapability(offset: number): number;
}

export interface IvhdOptions extends AmdPlatform {
  readonly name: string;
  readonly registers: RegisterBus & CapabilityBlock;
  /** cpu_relax(): called while the driver waits; lets hardware that needs it go on. */
  readonly relax?: () => void;
  /**
   * Runs an interrupt's handler soon, and not from within what raised it. Where absent, whoever owns the machine calls
   * Ivhd.serveInterrupts() after each DMA.
   */
  readonly defer?: (serve: () => void) => void;
  /** The PCI segment; 0 where absent. What is said of it counts for the first IOMMU of the segment. */
  readonly segment?: number;
  readonly segmentOptions?: SegmentOptions;
  /** The BARs of the hardware vIOMMU, where the IOMMU has one. */
  readonly viommuBars?: ViommuBars;
  /** IVHD flags: CONTROL bits that firmware asks for. */
  readonly acpiFlags?: {
    readonly htTunnel?: boolean;
    readonly passPW?: boolean;
    readonly resPassPW?: boolean;
    readonly isoc?: boolean;
  };
}

export class Ivhd implements PhysicalIommu {
  readonly name: string;
  readonly driver: AmdIommuDriver;
  /** Its place among the IOMMUs of the machine. */
  readonly index: number;
  readonly kernel: Kernel;
  readonly options: IvhdOptions;
  readonly mmio: Mmio;
  readonly segment: PciSegment;
  readonly efr: bigint;
  readonly efr2: bigint;
  readonly maxPasids: number;
  readonly iotlbSup: boolean;
  readonly npCache: boolean;
  readonly commands: CommandBuffer;
  readonly eventLog: LogRing;
  readonly pprLog: LogRing | null;
  /** By device id. */
  readonly devices = new Map<number, AmdIommuDevice>();
  /** The hardware vIOMMU, where it is there and offered. */
  readonly viommu: ViommuResources | null;
  readonly #interrupts: DeferredInterrupts<IvhdInterrupt>;

  /** init_iommu_one() to enable_iommus_ppr(), for one IOMMU. */
  static probe(driver: AmdIommuDriver, options: IvhdOptions): Result<Ivhd> {
    const ivhd = new Ivhd(driver, options);
    const enabled = enableIommu(ivhd);
    if (failed(enabled)) {
      disableIommu(ivhd);
      return enabled;
    }
    return ivhd;
  }

  private constructor(driver: AmdIommuDriver, options: IvhdOptions) {
    const { kernel } = driver;
    this.driver = driver;
    this.kernel = kernel;
    this.options = options;
    this.name = options.name;
    this.mmio = new Mmio(options.registers, options.relax ?? (() => {}));
    const capability = [options.registers.readCapability(CAP.HEADER)];
    const has = (field: (typeof CAP_HEADER)['IotlbSup']): boolean => readField(field, capability) !== 0;
    this.iotlbSup = has(CAP_HEADER.IotlbSup);
    this.npCache = has(CAP_HEADER.NpCache);
    this.efr = has(CAP_HEADER.EFRSup) ? this.mmio.read64(OFFSET.EFR) : 0n;
    this.efr2 = has(CAP_HEADER.EFRSup) ? this.mmio.read64(OFFSET.EFR2) : 0n;
    this.index = driver.enter(this);
    this.segment = driver.segment(options.segment ?? 0, options.segmentOptions ?? {});
    this.maxPasids = driver.features.maxPasids;
    this.commands = new CommandBuffer(kernel.physical, this.mmio, (text) => this.log(text));
    this.eventLog = new LogRing(this, OFFSET.EVT_HEAD, OFFSET.EVT_TAIL);
    this.pprLog = driver.features.ppr ? new LogRing(this, OFFSET.PPR_HEAD, OFFSET.PPR_TAIL) : null;
    const { viommuBars } = options;
    const offered = viommuBars !== undefined && driver.options.hwViommu === true;
    this.viommu = offered && driver.features.viommu ? new ViommuResources(this, viommuBars) : null;
    this.#interrupts = new DeferredInterrupts((which) => this.#handle(which), options.defer ?? null);
  }

  /** Whether requests of a device may have this id, an alias among them. */
  answersTo(deviceId: number): boolean {
    if (this.devices.has(deviceId)) return true;
    return [...this.devices.values()].some(({ aliases }) => aliases.includes(deviceId));
  }

  /** dev_err() and its kin. */
  log(text: string): void {
    const { trace } = this.kernel;
    if (trace.active) trace.emit({ kind: 'log', device: this.name, text });
  }

  // ---- interrupts ----

  /** An interrupt of the IOMMU: its handler runs later, at the latest when the driver is done with what it is doing. */
  interrupt(which: IvhdInterrupt): void {
    this.#interrupts.raise(which);
  }

  /** Runs the handlers of interrupts that wait. */
  serveInterrupts(): void {
    this.#interrupts.serve();
  }

  /** Keeps handlers out while tables and lists change: dev_data->mutex, pdom->lock and their kin. */
  exclusively<T>(work: () => T): T {
    return this.#interrupts.exclusively(work);
  }

  // amd_iommu_int_thread_evtlog(), amd_iommu_int_thread_pprlog(); Linux asks for no interrupt of COMPLETION_WAIT.
  #handle(which: IvhdInterrupt): void {
    if (which === 'event-log') serveEventLog(this);
    else if (which === 'ppr-log') servePprLog(this);
  }

  // ---- commands ----

  /** iommu_queue_command() */
  queue(command: Command): Result<void> {
    return this.commands.queue(command);
  }

  /** iommu_completion_wait() */
  completionWait(): Result<void> {
    return this.commands.completionWait();
  }

  /** iommu_flush_dte_sync() */
  flushDteSync(deviceId: number): void {
    if (!failed(this.queue(invalidateDte(deviceId)))) this.completionWait();
  }

  /** amd_iommu_flush_tlb_domid() */
  flushDomainId(domainId: number): void {
    this.queue(invalidatePages(ALL, domainId, 0, { pde: true }));
    this.completionWait();
  }

  /** amd_iommu_flush_all_caches() */
  flushAllCaches(): Result<void> {
    if (this.driver.features.invalidateAll) {
      const queued = this.queue(invalidateAll());
      return failed(queued) ? queued : this.completionWait();
    }
    const { lastDevice } = this.segment;
    const each = [
      invalidateDte,
      invalidateInterruptTable,
      (id: number) => invalidatePages(ALL, id, 0, { pde: true }),
    ];
    for (const command of each) {
      for (let id = 0; id <= lastDevice; id++) this.queue(command(id));
      const done = this.completionWait();
      if (failed(done)) return done;
    }
  }
}
