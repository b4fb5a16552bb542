import { fail, failed, type Result } from '../../base/result.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { EAGAIN, EIO } from '../../abi/errno.ts';
import { AtsRequester } from '../requests/ats-requester.ts';
import { Atc, type AtcInvalidation } from '../caches/cache-atc.ts';
import type { ArmSmmuDriver } from './driver/driver.ts';
import { ArmSmmuMaster, type MasterOptions, type SmmuAts, type PciFunction } from './driver/master.ts';
import type { ArmSmmu, ArmSmmuOptions } from './driver/smmu.ts';
import type { SmmuImplementation } from './driver/implementation.ts';
import type { SmmuV3Config } from './hardware/registers/config.ts';
import type { Endpoint } from './hardware/endpoint.ts';
import type { PageResponse } from './hardware/queues/pri-queue.ts';
import { SmmuV3, type AccessResult } from './hardware/smmu.ts';
import { type SmmuPort, smmuPort } from './port.ts';

// Where an SMMU and its driver meet, and what a device does that sits behind both.

export interface SmmuUnitOptions extends Pick<
  ArmSmmuOptions,
  'coherent' | 'vhe' | 'disableMsiPolling' | 'defer'
> {
  readonly name: string;
  readonly config: SmmuV3Config;
  /** Makes what stands beside the architecture's SMMU, and its driver. */
  readonly implementation?: (smmu: ArmSmmu, hardware: SmmuV3) => SmmuImplementation;
}

/** One SMMU of a machine: the silicon, and what the kernel has of it. */
export class SmmuUnit {
  readonly hardware: SmmuV3;
  readonly smmu: ArmSmmu;

  /** Makes the hardware and brings it up. ENXIO where the driver cannot run what `config` describes. */
  static create(driver: ArmSmmuDriver, options: SmmuUnitOptions): Result<SmmuUnit> {
    const { kernel } = driver;
    let smmu: ArmSmmu | null = null;
    const hardware = new SmmuV3({
      memory: kernel.physical,
      config: options.config,
      trace: kernel.trace,
      onInterrupt: (which) => smmu?.interrupt(which),
    });
    const { implementation, ...rest } = options;
    const probed = driver.probe({
      ...rest,
      ...(implementation && { implementation: (made) => implementation(made, hardware) }),
      registers: hardware,
      relax: () => void hardware.step(),
    });
    if (failed(probed)) return probed;
    smmu = probed;
    return new SmmuUnit(hardware, smmu);
  }

  private constructor(hardware: SmmuV3, smmu: ArmSmmu) {
    this.hardware = hardware;
    this.smmu = smmu;
  }
}

/** One DMA of a device. */
export interface SmmuDma {
  readonly write: boolean;
  readonly iova: bigint;
  /** Null for a transaction without one. */
  readonly pasid: number | null;
  /** What is written, or room for what is read. */
  readonly data: Uint8Array;
}

export interface FunctionOptions extends Omit<MasterOptions, 'pci'> {
  /**
   * A PCI function with these PASIDs (0 for none) and, where `ats` says so, a translation cache: one that is made with it,
   * or that of whoever is connected to its port, who says how to turn it on. Null for another device.
   */
  readonly pci?:
    (Omit<PciFunction, 'ats'> & { readonly ats?: 'optional' | 'required' | 'none' | SmmuAts }) | null;
  /** Entries of the translation cache. */
  readonly atcEntries?: number;
}

/** A device that does DMA through its SMMU, by way of its own translation cache while ATS is on. */
export class SmmuFunction extends ArmSmmuMaster implements Endpoint {
  readonly unit: SmmuUnit;
  readonly atc: Atc | null;
  /** For a device model: connected to it, the device has neither a cache nor page responses here. */
  readonly port: SmmuPort;
  readonly #requester: AtsRequester | null;
  /** False: Invalidate Requests time out. */
  answersInvalidations = true;
  /** Page responses that came, the newest last. */
  readonly pageResponses: PageResponse[] = [];

  /** Makes the device and has the driver probe it. */
  static create(unit: SmmuUnit, options: FunctionOptions): Result<SmmuFunction> {
    const { pci = null, ...rest } = options;
    const ats = pci?.ats ?? 'none';
    const atc = ats === 'optional' || ats === 'required' ? new Atc(options.atcEntries) : null;
    const own = atc === null ? null : atsOf(atc, ats === 'required');
    const made = new SmmuFunction(unit, atc, {
      ...rest,
      pci: pci === null ? null : { ...pci, ats: typeof ats === 'object' ? ats : own },
    });
    const probed = unit.smmu.probeDevice(made);
    if (failed(probed)) return probed;
    for (const sid of made.streamIds) unit.hardware.attachEndpoint(sid, made);
    return made;
  }

  private constructor(unit: SmmuUnit, atc: Atc | null, options: MasterOptions) {
    super(unit.smmu, options);
    this.unit = unit;
    this.atc = atc;
    const { name, stallEnabled: stallable } = this;
    this.port = smmuPort(unit.hardware, unit.smmu, { name, streamId: this.sid, stallable });
    this.#requester = atc === null ? null : new AtsRequester(this.port, atc);
  }

  get sid(): number {
    return this.streamIds[0]!;
  }

  invalidate(request: AtcInvalidation): boolean {
    if (!this.answersInvalidations) return false;
    this.atc?.invalidate(request);
    return true;
  }

  pageResponse(response: PageResponse): void {
    this.pageResponses.push(response);
  }

  /**
   * Does one DMA. EIO where it does not pass, with what stopped it; EAGAIN where it waits for software, which takes it
   * up again from there: what it was to transfer then is lost.
   */
  dma({ write, iova: address, pasid, data }: SmmuDma): Result<void> {
    const request = { write, address, pasid };
    const stopped = (this.#requester ?? this.port).access(request, data);
    if (stopped !== null) return fail(stopped.kind === 'stalled' ? EAGAIN : EIO, stopped.reason);
  }

  /** The same without the cache, with the hardware's own answer, and interrupts not yet served. */
  access({ write, iova, pasid, data }: SmmuDma): AccessResult {
    const { sid: streamId, stallEnabled: stallable } = this;
    const address = { hi: hi32(iova), lo: lo32(iova) };
    return this.unit.hardware.access({ streamId, substreamId: pasid, ...address, write, stallable }, data);
  }
}

function atsOf(atc: Atc, required: boolean): PciFunction['ats'] {
  return { required, enable: () => atc.enable(true), disable: () => atc.enable(false) };
}
