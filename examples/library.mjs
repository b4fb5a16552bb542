// The core as a library: a machine, a VMM and its guest in one process. It runs in Node and in a browser alike.
//
//   node examples/library.mjs

import { Kernel } from '@viommu/core/machine/kernel';
import { machineSchema } from '@viommu/core/machine/machine-file/description';
import { loadParts } from '@viommu/core/machine/machine-file/parts';
import { eventText } from '@viommu/core/trace/text';
import { bootGuest } from '@viommu/core/vmm/guests/boot';
import { VirtualMachine } from '@viommu/core/vmm/virtual-machine';

/** What the guest calls its device, and where it has a page for it. */
const DEVICE = 0x18;
const IOVA = 0x1234_5000n;

async function main() {
  const description = machineSchema.parse({
    iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
    devices: [{ name: '0000:01:00.0', iommu: 'smmu0', model: 'dma-engine' }],
  });
  const kernel = new Kernel({ parts: await loadParts(description) });

  // The VMM has /dev/iommu and a VFIO device; the guest sees an SMMUv3 of its own.
  const vm = VirtualMachine.create(kernel);
  const device = vm.openDevice('/dev/vfio/devices/vfio0');
  const { driver } = bootGuest(vm, new Map([[DEVICE, device]]));
  kernel.trace.subscribe((event) => console.log(`    ${eventText(event)}`));

  const space = driver.space();
  space.tables.map(IOVA, driver.pages.page('old'));
  driver.attach(DEVICE, space);
  const read = () => console.log(String.fromCharCode(...device.dmaRead(IOVA, 3, null)));
  read();
  space.tables.map(IOVA, driver.pages.page('new')); // and nobody tells the SMMU
  read();
  driver.invalidate(DEVICE, space, IOVA);
  read();
}

export const finished = main();
