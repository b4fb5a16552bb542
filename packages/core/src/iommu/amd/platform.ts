import { fail, failed, type Result } from '../../base/result.ts';
import { EIO } from '../../abi/errno.ts';
import { AtsRequester } from '../ats-requester.ts';
import { Atc, type AtcInvalidation } from '../cache-atc.ts';
import type { DmaEndpoint, PageResponseMessage } from '../dma-port.ts';
import type { AmdIommuDriver } from './driver/driver.ts';
import { AmdIommuDevice, type AmdDeviceOptions, type AmdPciFunction } from './driver/device.ts';
import type { Ivhd, IvhdOptions } from './driver/ivhd.ts';
import { AmdIommu } from './hardware/amd-iommu.ts';
import type { AmdIommuConfig } from './hardware/config.ts';
import { AmdPort } from './port.ts';

// Where an AMD IOMMU and its driver meet, and what a device does that sits behind both.

export interface AmdUnitOptions extends Omit<IvhdOptions, 'registers' | 'relax'> {
  readonly config: AmdIommuConfig;
}

/** One AMD IOMMU of a machine: the silicon, and what the kernel has of it. */
export class AmdUnit {
  readonly hardware: AmdIommu;
  readonly ivhd: Ivhd;

  /** Makes the hardware and brings it up. EIO where it does not answer. */
  static create(driver: AmdIommuDriver, options: AmdUnitOptions): Result<AmdUnit> {
    const { kernel } = driver;
    const { config, ...rest } = options;
    let ivhd: Ivhd | null = null;
    const hardware = new AmdIommu({
      memory: kernel.physical,
      config,
      trace: kernel.trace,
      onInterrupt: (which) => ivhd?.interrupt(which),
    });
    const probed = driver.probe({ ...rest, registers: hardware, relax: () => void hardware.step() });
    if (failed(probed)) return probed;
    ivhd = probed;
    return new AmdUnit(hardware, ivhd);
  }

  private constructor(hardware: AmdIommu, ivhd: Ivhd) {
    this.hardware = hardware;
    this.ivhd = ivhd;
  }
}

/** One DMA of a device. */
export interface AmdDma {
  readonly write: boolean;
  readonly iova: bigint;
  /** Null for a transaction without one. */
  readonly pasid: number | null;
  /** What is written, or room for what is read. */
  readonly data: Uint8Array;
}

export interface FunctionOptions extends Omit<AmdDeviceOptions, 'pci'> {
  /**
   * A PCI function. Where `ats` or `pri` is 'own', it is one that is made with it; else it is that of whoever is connected
   * to its port.
   */
  readonly pci?:
    | (Omit<AmdPciFunction, 'ats' | 'pri'> & {
        readonly ats?: 'own' | AmdPciFunction['ats'];
        readonly pri?: 'own' | AmdPciFunction['pri'];
      })
    | null;
  /** Entries of the translation cache. */
  readonly atcEntries?: number;
}

/** A device that does DMA through its IOMMU, by way of its own translation cache while ATS is on. */
export class AmdFunction extends AmdIommuDevice implements DmaEndpoint {
  readonly unit: AmdUnit;
  readonly atc: Atc;
  readonly port: AmdPort;
  /** False: Invalidate Requests time out. */
  answersInvalidations = true;
  /** Page responses that came, the newest last. */
  readonly pageResponses: PageResponseMessage[] = [];
  readonly #requester: AtsRequester;

  /** Makes the device and has the driver probe it. */
  static create(unit: AmdUnit, options: FunctionOptions): Result<AmdFunction> {
    const { pci = null, ...rest } = options;
    const atc = new Atc(options.atcEntries);
    const ats = { enable: () => atc.enable(true), disable: () => atc.enable(false) };
    const pri = { enable: () => {}, disable: () => {} };
    const made = new AmdFunction(unit, atc, {
      ...rest,
      pci:
        pci === null
          ? null
          : {
              ...pci,
              ats: pci.ats === 'own' ? ats : (pci.ats ?? null),
              pri: pci.pri === 'own' ? pri : (pci.pri ?? null),
            },
    });
    return unit.ivhd.driver.probeDevice(made);
  }

  private constructor(unit: AmdUnit, atc: Atc, options: AmdDeviceOptions) {
    super(unit.ivhd, options);
    this.unit = unit;
    this.atc = atc;
    this.port = new AmdPort(unit.hardware, unit.ivhd, this.name, this.deviceId);
    this.port.connect(this);
    this.#requester = new AtsRequester(this.port, atc);
  }

  invalidate(request: AtcInvalidation): boolean {
    if (!this.answersInvalidations) return false;
    this.atc.invalidate(request);
    return true;
  }

  pageResponse(response: PageResponseMessage): void {
    this.pageResponses.push(response);
  }

  /** Does one DMA. EIO where it does not pass, with what stopped it. */
  dma({ write, iova, pasid, data }: AmdDma): Result<void> {
    const stopped = this.#requester.access({ write, address: iova, pasid }, data);
    if (stopped !== null) return fail(EIO, stopped.reason);
  }
}
