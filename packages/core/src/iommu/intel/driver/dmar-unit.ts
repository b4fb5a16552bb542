import { fail, failed, type Result } from '../../../base/result.ts';
import { hex } from '../../../base/u64.ts';
import { EEXIST, ENOMEM } from '../../../abi/errno.ts';
import { DeferredInterrupts } from '../../drivers/deferred-interrupts.ts';
import type { Kernel, PhysicalIommu } from '../../driver.ts';
import { IdAllocator } from '../../drivers/ids.ts';
import { Mmio, type RegisterBus } from '../../drivers/mmio.ts';
import { bringUp, shutDown } from './bring-up.ts';
import type { Descriptor } from './queues/descriptors.ts';
import type { IntelDevice } from './device.ts';
import type { IntelIommuDriver } from './driver.ts';
import { serveFaults } from './queues/faults.ts';
import { probeFeatures, type DmarFeatures } from './features.ts';
import { InvalidationQueue } from './queues/invalidation-queue.ts';
import { PageRequestQueue } from './queues/page-requests.ts';
import { RootTable } from './configuration/root-table.ts';

// One remapping hardware unit: struct intel_iommu.

/** Events of the hardware that the driver takes interrupts for; completed waits need none. */
export type DmarInterrupt = 'fault' | 'page-request';

/** Domain ids below mean no domain, and pass-through: FLPT_DEFAULT_DID, IDA_START_DID. */
export const PASS_THROUGH_DID = 1;
const FIRST_DID = 2;

export interface DmarOptions {
  readonly name: string;
  readonly registers: RegisterBus;
  /** cpu_relax(): called while the driver waits; lets hardware that needs it go on. */
  readonly relax?: () => void;
  /**
   * Runs an interrupt's handler soon, and not from within what raised it: hardware is then in the middle of a
   * transaction. Where absent, whoever owns the machine calls DmarUnit.serveInterrupts() after each DMA.
   */
  readonly defer?: (serve: () => void) => void;
}

export class DmarUnit implements PhysicalIommu {
  readonly name: string;
  readonly driver: IntelIommuDriver;
  readonly kernel: Kernel;
  readonly mmio: Mmio;
  readonly features: DmarFeatures;
  readonly rootTable: RootTable;
  readonly queue: InvalidationQueue;
  readonly pageRequests: PageRequestQueue | null;
  readonly domainIds: IdAllocator;
  readonly interrupts: DeferredInterrupts<DmarInterrupt>;
  /** By requester id: device_rbtree. */
  readonly devices = new Map<number, IntelDevice>();
  /** What of GCMD is on. */
  gcmd = 0;

  /** alloc_iommu(), init_dmars() and the end of intel_iommu_init(), for one unit. ENXIO where it cannot be run. */
  static probe(driver: IntelIommuDriver, options: DmarOptions): Result<DmarUnit> {
    const mmio = new Mmio(options.registers, options.relax ?? (() => {}));
    const features = probeFeatures(mmio, options.name);
    if (failed(features)) return features;
    if (driver.kernel.failpoint()) return fail(ENOMEM, 'no memory for the root table');
    const unit = new DmarUnit(driver, options, mmio, features);
    const up = bringUp(unit);
    return failed(up) ? up : unit;
  }

  private constructor(driver: IntelIommuDriver, options: DmarOptions, mmio: Mmio, features: DmarFeatures) {
    const { kernel } = driver;
    this.name = options.name;
    this.driver = driver;
    this.kernel = kernel;
    this.mmio = mmio;
    this.features = features;
    this.domainIds = new IdAllocator(FIRST_DID, features.domains - 1);
    this.interrupts = new DeferredInterrupts((which) => this.#handle(which), options.defer ?? null);
    this.queue = new InvalidationQueue({
      physical: kernel.physical,
      mmio,
      present: (requesterId) => this.devices.has(requesterId),
      log: (text) => this.log(text),
    });
    this.rootTable = new RootTable(kernel);
    this.pageRequests = features.pageRequests ? new PageRequestQueue(this) : null;
  }

  /** dev_err() and its kin. */
  log(text: string): void {
    const { trace } = this.kernel;
    if (trace.active) trace.emit({ kind: 'log', device: this.name, text });
  }

  /** qi_submit_sync(): interrupts wait until it is done. */
  invalidate(descriptors: readonly Descriptor[], drain = false): Result<void> {
    return this.interrupts.exclusively(() => this.queue.submit(descriptors, drain));
  }

  // ---- interrupts ----

  /** The hardware sent the message of one of its events. */
  interrupt(which: DmarInterrupt): void {
    this.interrupts.raise(which);
  }

  /** Runs the handlers of interrupts that wait. */
  serveInterrupts(): void {
    this.interrupts.serve();
  }

  #handle(which: DmarInterrupt): void {
    if (which === 'fault') serveFaults(this);
    else this.pageRequests?.serve();
  }

  // ---- devices ----

  /** intel_iommu_probe_device() and intel_iommu_probe_finalize(). EEXIST where another device has the requester id. */
  probeDevice<Device extends IntelDevice>(device: Device): Result<Device> {
    const other = this.devices.get(device.requesterId);
    if (other !== undefined)
      return fail(EEXIST, `${other.name} has requester id ${hex(device.requesterId)} already`);
    const probed = device.probe();
    if (failed(probed)) return probed;
    this.devices.set(device.requesterId, device);
    device.group.devices.push(device);
    device.finalize();
    return device;
  }

  /** intel_iommu_release_device(): the device must not be attached to anything that translates. */
  releaseDevice(device: IntelDevice): void {
    this.driver.blockedDomain.attachDevice(device, device.group.domain);
    device.release();
    this.devices.delete(device.requesterId);
    const at = device.group.devices.indexOf(device);
    if (at >= 0) device.group.devices.splice(at, 1);
  }

  /** intel_iommu_shutdown(): the hardware is disabled, its memory given back. */
  remove(): void {
    shutDown(this);
    this.queue.free();
    this.rootTable.free();
    this.pageRequests?.free();
  }
}
