import { assert } from '../../../base/assert.ts';
import { failed } from '../../../base/result.ts';
import { SimulatedMemory } from '../../../memory/simulated-process.ts';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Kernel, type PagingDomain } from '../../driver.ts';
import { IommuGroup } from '../../group.ts';
import { ArmSmmuDriver } from '../driver/driver.ts';
import type { Platform } from '../driver/features.ts';
import { smmuV3Config, type ConfigOverrides } from '../hardware/registers/config.ts';
import { SmmuFunction, SmmuUnit, type FunctionOptions } from '../platform.ts';
import { bytesOf, textOf } from '../../../base/testing/ascii.ts';

// For tests of the driver without iommufd.

export const PROT = IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE;
/** A PCI function with PASIDs and ATS. */
export const ATS = { maxPasids: 256, pasidExec: false, pasidPriv: false, ats: 'optional' } as const;

/** What a device reads in three bytes, or `fault`. */
export function readText(device: SmmuFunction, iova: bigint, pasid: number | null = null): string {
  const data = new Uint8Array(3);
  const rc = device.dma({ write: false, iova, pasid, data });
  return failed(rc) ? 'fault' : textOf(data);
}

/** One SMMU, and devices behind it, with the driver's own functions for everything. */
export class Rig {
  readonly kernel: Kernel;
  readonly driver: ArmSmmuDriver;
  readonly unit: SmmuUnit;
  /** Commands and what happens to ATS at devices, in order. */
  readonly seen: string[] = [];
  /** What the kernel logged. */
  readonly logs: string[] = [];
  #groups = 0;

  constructor(kernel: Kernel, overrides: ConfigOverrides = {}, platform: Platform = {}) {
    this.kernel = kernel;
    this.driver = new ArmSmmuDriver(kernel);
    const config = smmuV3Config({
      ...overrides,
      IDR1: { CMDQS: 8, EVENTQS: 8, PRIQS: 8, ...overrides.IDR1 },
    });
    const unit = SmmuUnit.create(this.driver, { name: 'smmu0', config, ...platform });
    assert(!failed(unit), 'the SMMU comes up');
    this.unit = unit;
    this.kernel.trace.subscribe((event) => {
      if (event.kind === 'command') this.seen.push(String(event['name']).replace('CMD_', ''));
      if (event.kind === 'log') this.logs.push(String(event['text']));
    });
  }

  device(sid: number, options: Partial<FunctionOptions> = {}): SmmuFunction {
    const group = new IommuGroup(this.kernel, this.#groups++);
    const made = SmmuFunction.create(this.unit, {
      name: `dev${sid}`,
      streamIds: [sid],
      group,
      pci: ATS,
      ...options,
    });
    assert(!failed(made), 'the device is probed');
    const { atc } = made;
    if (atc !== null) {
      const enable = atc.enable.bind(atc);
      atc.enable = (on) => {
        this.seen.push(on ? 'ATS on' : 'ATS off');
        enable(on);
      };
    }
    return made;
  }

  domain(device: SmmuFunction, flags = 0): PagingDomain {
    const domain = this.driver.domainAllocPagingFlags(device, flags, new SimulatedMemory(), null);
    assert(!failed(domain), 'the domain is made');
    return domain;
  }

  /** RAM of the machine with a text at its start; its physical address. */
  ram(text: string, pages = 1): number {
    const pa = this.kernel.physical.allocate(pages);
    this.kernel.physical.write(pa, bytesOf(text));
    return pa;
  }

  /** The commands since the last look. */
  take(): string[] {
    return this.seen.splice(0);
  }
}
