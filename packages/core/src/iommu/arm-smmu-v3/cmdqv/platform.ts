import type { ArmSmmu } from '../driver/smmu.ts';
import type { SmmuImplementation } from '../driver/implementation.ts';
import type { SmmuV3 } from '../hardware/smmu.ts';
import { Tegra241Driver } from './driver.ts';
import { Tegra241Cmdqv, type CmdqvOptions } from './hardware.ts';
import { PAGE_BYTES } from './spec.ts';

/** How large a CMDQ-V is; what is left out is as in the Tegra241. */
export type CmdqvSizes = Pick<CmdqvOptions, 'version' | 'vcmdqsLog2' | 'vintfsLog2' | 'sidsLog2'>;

const PAGE0_PAGES = PAGE_BYTES / 4096;

/** Puts a CMDQ-V beside an SMMU, and its driver with it. For `implementation` of an SMMU's unit. */
export function cmdqv(sizes: CmdqvSizes): (smmu: ArmSmmu, hardware: SmmuV3) => SmmuImplementation {
  return (smmu, hardware) => {
    const { kernel } = smmu;
    const pages = new Map<number, number>();
    // Pages of interfaces that nobody uses take no memory.
    const page0 = (vintf: number): number => {
      const at = pages.get(vintf) ?? kernel.physical.allocate(PAGE0_PAGES);
      pages.set(vintf, at);
      return at;
    };
    const registers = new Tegra241Cmdqv({
      ...sizes,
      memory: kernel.physical,
      page0,
      sink: hardware,
      trace: kernel.trace,
      onInterrupt: () => driver.interrupt(),
    });
    const driver = new Tegra241Driver(smmu, { registers, page0 });
    kernel.doorbells.add({
      get watched() {
        return driver.used;
      },
      look() {
        const more = registers.poll();
        driver.serveErrors();
        smmu.serveInterrupts();
        return more;
      },
    });
    return driver;
  };
}
