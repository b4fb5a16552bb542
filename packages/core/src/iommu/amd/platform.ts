import { fail, failed, type Result } from '../../base/result.ts';
import { EIO } from '../../abi/errno.ts';
import { AtsRequester } from '../requests/ats-requester.ts';
import { Atc, type AtcInvalidation } from '../caches/cache-atc.ts';
import type { Doorbell } from '../../memory/doorbells.ts';
import type { Kernel } from '../driver.ts';
import type { DmaEndpoint, PageResponseMessage } from '../requests/dma-port.ts';
import type { AmdIommuDriver } from './driver/driver.ts';
import { AmdIommuDevice, type AmdDeviceOptions, type AmdPciFunction } from './driver/device.ts';
import type { Ivhd, IvhdOptions } from './driver/ivhd.ts';
import { AmdIommu } from './hardware/amd-iommu.ts';
import type { AmdIommuConfig } from './hardware/registers/config.ts';
import type { HardwareViommu } from './hardware/viommu/viommu.ts';
import { type AmdPort, amdPort } from './port.ts';
import type { ViommuResources } from './viommu/resources.ts';

// Where an AMD IOMMU and its driver meet, and what a device does that sits behind both.

export interface AmdUnitOptions extends Omit<IvhdOptions, 'registers' | 'relax' | 'viommuBars'> {
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
    const guestPage = guestPages(kernel);
    const hardware = new AmdIommu({
      memory: kernel.physical,
      config,
      trace: kernel.trace,
      guestPage,
      onInterrupt: (which) => ivhd?.interrupt(which),
    });
    const { viommu } = hardware;
    const probed = driver.probe({
      ...rest,
      registers: hardware,
      relax: () => void hardware.step(),
      ...(viommu !== null && {
        viommuBars: { writeControl: (offset, value) => viommu.writeControl(offset, value), page: guestPage },
      }),
    });
    if (failed(probed)) return probed;
    ivhd = probed;
    if (viommu !== null && probed.viommu !== null)
      kernel.doorbells.add(doorbell(viommu, probed, probed.viommu));
    return new AmdUnit(hardware, ivhd);
  }

  private constructor(hardware: AmdIommu, ivhd: Ivhd) {
    this.hardware = hardware;
    this.ivhd = ivhd;
  }
}

/** The pages of the VF BAR; those of guests that nobody has take no memory. */
function guestPages(kernel: Kernel): (guestId: number) => number {
  const pages = new Map<number, number>();
  return (guestId) => {
    const at = pages.get(guestId) ?? kernel.physical.allocate(1);
    pages.set(guestId, at);
    return at;
  };
}

function doorbell(viommu: HardwareViommu, ivhd: Ivhd, resources: ViommuResources): Doorbell {
  return {
    get watched() {
      return resources.used;
    },
    look() {
      const more = viommu.poll();
      ivhd.serveInterrupts();
      return more;
    },
  };
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
    this.port = amdPort(unit.hardware, unit.ivhd, this.name, this.deviceId);
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
