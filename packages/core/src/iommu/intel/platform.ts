import { failed, type Result } from '../../base/result.ts';
import { IntelDevice, type IntelFunctionOptions } from './driver/device.ts';
import type { DmarOptions, DmarUnit } from './driver/dmar-unit.ts';
import type { IntelIommuDriver } from './driver/driver.ts';
import type { IntelConfig } from './hardware/registers/config.ts';
import { IntelIommu } from './hardware/intel-iommu.ts';
import { type IntelPort, intelPort } from './port.ts';

// Where VT-d hardware and its driver meet.

export interface IntelUnitOptions extends Pick<DmarOptions, 'defer'> {
  readonly name: string;
  readonly config: IntelConfig;
}

/** One unit of a machine: the silicon, and what the kernel has of it. */
export class IntelUnit {
  readonly hardware: IntelIommu;
  readonly dmar: DmarUnit;

  /** Makes the hardware and brings it up. ENXIO where the driver cannot run what `config` describes. */
  static create(driver: IntelIommuDriver, options: IntelUnitOptions): Result<IntelUnit> {
    const { kernel } = driver;
    let unit: DmarUnit | null = null;
    const hardware = new IntelIommu({
      memory: kernel.physical,
      config: options.config,
      trace: kernel.trace,
      onInterrupt: ({ event }) => {
        // Completed waits are polled for.
        if (event !== 'invalidation') unit?.interrupt(event);
      },
    });
    const { name, defer } = options;
    const relax = (): void => void hardware.step();
    const probed = driver.probe({
      name,
      registers: hardware,
      relax,
      ...(defer === undefined ? {} : { defer }),
    });
    if (failed(probed)) return probed;
    unit = probed;
    return new IntelUnit(hardware, unit);
  }

  private constructor(hardware: IntelIommu, dmar: DmarUnit) {
    this.hardware = hardware;
    this.dmar = dmar;
  }

  /**
   * Puts a function behind the unit, and has the driver probe it. Whoever is the function connects to the port before: the
   * driver may invalidate its translation cache at once.
   */
  addFunction(
    options: IntelFunctionOptions,
    connect: (port: IntelPort) => void = () => {},
  ): Result<{ readonly device: IntelDevice; readonly port: IntelPort }> {
    const port = intelPort(this.hardware, this.dmar, options.name, options.requesterId);
    connect(port);
    const device = this.dmar.probeDevice(new IntelDevice(this.dmar, options));
    return failed(device) ? device : { device, port };
  }
}
