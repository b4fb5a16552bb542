import { assert } from '../../../base/assert.ts';
import { failed } from '../../../base/result.ts';
import { u64 } from '../../../base/u64.ts';
import { SimulatedMemory } from '../../../memory/simulated-process.ts';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Kernel } from '../../driver.ts';
import { IommuGroup } from '../../group.ts';
import { AmdIommuDriver, type AmdDriverOptions } from '../driver/driver.ts';
import type { AmdPagingDomain } from '../driver/domains/domain.ts';
import { readDte } from '../driver/configuration/dte.ts';
import type { SegmentOptions } from '../driver/configuration/segment.ts';
import { amdIommuConfig, type ConfigOverrides } from '../hardware/registers/config.ts';
import { AmdFunction, AmdUnit, type FunctionOptions } from '../platform.ts';
import { bytesOf, textOf } from '../../../base/testing/ascii.ts';

// For tests of the driver without iommufd.

export const PROT = IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE;
/** A PCI function with PASIDs, ATS and PRI. */
export const ATS = { maxPasids: 256, pasidExec: false, pasidPriv: false, ats: 'own', pri: 'own' } as const;
/** A PCI function with none of them. */
export const PLAIN = { maxPasids: 0, pasidExec: false, pasidPriv: false } as const;

export interface RigOptions {
  readonly config?: ConfigOverrides;
  readonly driver?: AmdDriverOptions;
  readonly units?: number;
  readonly segmentOptions?: SegmentOptions;
}

/** IOMMUs in one segment, and devices behind them, with the driver's own functions for everything. */
export class Rig {
  readonly kernel: Kernel;
  readonly driver: AmdIommuDriver;
  readonly units: AmdUnit[] = [];
  /** Commands and what happens to ATS at devices, in order. */
  readonly seen: string[] = [];
  /** Control register and ring registers written, as NAME=value. */
  readonly registers: string[] = [];
  /** What the kernel logged. */
  readonly logs: string[] = [];
  #groups = 0;

  constructor(kernel: Kernel, options: RigOptions = {}) {
    this.kernel = kernel;
    this.kernel.trace.subscribe((event) => {
      if (event.kind === 'command') this.seen.push(String(event['name']));
      if (event.kind === 'log') this.logs.push(String(event['text']));
      if (event.kind === 'register' && event['write'] === true)
        this.registers.push(`${String(event['name'])}=0x${(event['value'] as number).toString(16)}`);
    });
    this.driver = new AmdIommuDriver(kernel, options.driver);
    for (let i = 0; i < (options.units ?? 1); i++) {
      const unit = AmdUnit.create(this.driver, {
        name: `ivhd${i}`,
        config: amdIommuConfig(options.config),
        segmentOptions: options.segmentOptions ?? { lastDevice: 0xff },
      });
      assert(!failed(unit), 'the IOMMU comes up');
      this.units.push(unit);
    }
  }

  get unit(): AmdUnit {
    return this.units[0]!;
  }

  device(deviceId: number, options: Partial<FunctionOptions> & { unit?: number } = {}): AmdFunction {
    const { unit = 0, ...rest } = options;
    const made = AmdFunction.create(this.units[unit]!, {
      name: `dev${deviceId}`,
      deviceId,
      group: new IommuGroup(this.kernel, this.#groups++),
      pci: ATS,
      ...rest,
    });
    assert(!failed(made), 'the device is probed');
    const enable = made.atc.enable.bind(made.atc);
    made.atc.enable = (on) => {
      this.seen.push(on ? 'ATS on' : 'ATS off');
      enable(on);
    };
    return made;
  }

  domain(device: AmdFunction, flags = 0): AmdPagingDomain {
    const domain = this.driver.domainAllocPagingFlags(device, flags, new SimulatedMemory(), null);
    assert(!failed(domain), 'the domain is made');
    return domain as AmdPagingDomain;
  }

  /** A device's DTE as four 64-bit words. */
  dte(deviceId: number): string[] {
    const { segment } = this.unit.ivhd;
    const words = readDte(this.kernel, segment.dteAddress(deviceId));
    return [0, 2, 4, 6].map((i) =>
      u64(words[i + 1]!, words[i]!)
        .toString(16)
        .padStart(16, '0'),
    );
  }

  /** RAM of the machine with a text at its start; its physical address. */
  ram(value: string, pages = 1): number {
    const pa = this.kernel.physical.allocate(pages);
    this.kernel.physical.write(pa, bytesOf(value));
    return pa;
  }

  /** What a device reads in three bytes, or `fault`. */
  read(device: AmdFunction, iova: bigint, pasid: number | null = null): string {
    const data = new Uint8Array(3);
    return failed(device.dma({ write: false, iova, pasid, data })) ? 'fault' : textOf(data);
  }

  /** False where it did not pass. */
  write(device: AmdFunction, iova: bigint, value: string, pasid: number | null = null): boolean {
    return !failed(device.dma({ write: true, iova, pasid, data: bytesOf(value) }));
  }

  /** What has been seen since the last look. */
  take(): string[] {
    return this.seen.splice(0);
  }
}
