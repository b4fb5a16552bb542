import { big } from '../../base/u64.ts';
import type { Bar } from '../../pci/bar.ts';
import type { PciFunction } from '../../pci/function.ts';
import { barAddress } from '../../pci/header.ts';
import { PCI_BASE_ADDRESS_0, PCI_CFG_SPACE_EXP_BYTES } from '../../pci/spec.ts';
import type { VfioDeviceState } from '../../vfio/device.ts';
import type { PciFunctionView, PciResource, ReservedRange } from './view.ts';

// include/linux/ioport.h
const IORESOURCE_IO = 0x100;
const IORESOURCE_MEM = 0x200;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_SIZEALIGN = 0x4_0000;
const IORESOURCE_MEM_64 = 0x10_0000;
const NO_RESOURCE: PciResource = { start: 0n, last: 0n, flags: 0 };

/** What is shown of a device. `vfio`: the number of its file. */
export function viewOf(state: VfioDeviceState, vfio: number): PciFunctionView {
  const { pci, device } = state;
  return {
    name: state.name,
    vfio,
    group: state.group.id,
    iommu: device.iommu.name,
    config: () => configOf(pci),
    resources: () => [
      ...pci.bars.map((bar) => (bar === null ? NO_RESOURCE : resourceOf(pci, bar))),
      NO_RESOURCE,
    ],
    reserved: () => reservedOf(state),
    remove: () => state.remove(),
  };
}

// Not by readConfig(): whoever looks at /sys is no access of the bus to the function, nor one that a trace has.
function configOf(pci: PciFunction): Uint8Array {
  const bytes = new Uint8Array(PCI_CFG_SPACE_EXP_BYTES);
  const words = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) words.setUint32(at, pci.config.read(at, 4), true);
  return bytes;
}

function resourceOf(pci: PciFunction, bar: Bar): PciResource {
  const start = barAddress(pci.config, bar);
  const kinds = {
    io: IORESOURCE_IO,
    memory32: IORESOURCE_MEM | IORESOURCE_SIZEALIGN,
    memory64: IORESOURCE_MEM | IORESOURCE_SIZEALIGN | IORESOURCE_MEM_64,
  };
  // The low bits are those of the register.
  const low = pci.readConfig(PCI_BASE_ADDRESS_0 + 4 * bar.index, 1) & (bar.kind === 'io' ? 3 : 15);
  const prefetch = bar.prefetchable === true ? IORESOURCE_PREFETCH : 0;
  return { start, last: start + big(bar.size) - 1n, flags: kinds[bar.kind] | prefetch | low };
}

function reservedOf({ device }: VfioDeviceState): readonly ReservedRange[] {
  const regions = device.driver.reservedRegions(device).map(({ type, start, length }) => ({
    start,
    last: start + length - 1n,
    type: type === 'sw-msi' ? ('msi' as const) : type,
  }));
  return regions.sort((a, b) => (a.start < b.start ? -1 : 1));
}
