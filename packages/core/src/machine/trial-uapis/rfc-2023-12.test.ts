import { describe, expect, it } from 'vitest';
import { EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOTTY, EOPNOTSUPP } from '../../abi/errno.ts';
import * as rfc from '../../abi/rfc-2023-12.ts';
import { amdIommu } from '../iommus/amd-iommu.ts';
import { intelIommu } from '../iommus/intel-iommu.ts';
import { Kernel } from '../kernel.ts';
import {
  NAMED_CASES,
  partsOf,
  trialMachine,
  VENDOR_CASES,
  type GuestStage1,
  type VendorCase,
} from '../testing/vendors.ts';
import { GUEST, Vm, type Passed } from '../testing/vm.ts';

// The trial uAPI rfc-2023-12 on each vendor's IOMMUs: docs/rfc-2023-12.md.

const IOVA = 0x5000n;
const amd = VENDOR_CASES.find(({ vendor }) => vendor === amdIommu)!;

/** A VM with a device that has a stage 1 of the guest over a viommu, and two pages to lead it to. */
function nestedVm({ vendor, idType, stage1 }: VendorCase) {
  const vm = new Vm(trialMachine(vendor));
  const device = vm.pass(0);
  const parent = vm.parent(device);
  const viommu = vm.rfcViommu(device, parent);
  vm.name(device, viommu, idType, 0x99n);
  const tables = stage1(vm.guest);
  const hwpt = vm.rfcNested(device, parent, viommu, tables.nested);
  expect(vm.attach(device, hwpt)).toBe(0);
  return { vm, device, parent, viommu, hwpt, tables, ...pages(vm, tables, device) };
}

function pages(vm: Vm, tables: GuestStage1, device: Passed) {
  const [before, after] = [vm.guest.page(), vm.guest.page()];
  vm.guest.write(before, 'old');
  vm.guest.write(after, 'new');
  tables.map(IOVA, before);
  return { change: () => tables.map(IOVA, after), seen: () => vm.deviceReads(device, IOVA, 3) };
}

describe.each(VENDOR_CASES)('a viommu of the thread on $name', (vendor) => {
  const setUp = () => {
    const vm = new Vm(trialMachine(vendor.vendor, vendor.vendor));
    const devices = [0, 1, 2, 3].map((index) => vm.pass(index));
    return { vm, devices, device: devices[0]!, parent: vm.parent(devices[0]!) };
  };

  it('is not there unless the machine asks for it', () => {
    const vm = new Vm(new Kernel({ parts: partsOf(vendor.vendor) }));
    const device = vm.pass(0);
    expect(vm.tryRfcViommu(device, vm.parent(device)).rc).toBe(-ENOTTY);
  });

  it('is made of a device and a nest parent, which it keeps', () => {
    const { vm, device, parent } = setUp();
    const plain = vm.hwpt(device.id, vm.ioasId);
    expect(vm.tryRfcViommu(device, plain).rc).toBe(-EINVAL);
    expect(vm.tryRfcViommu(device, 999).rc).toBe(-ENOENT);
    expect(vm.tryRfcViommu({ fd: -1, id: 999 }, parent).rc).toBe(-ENOENT);
    const viommu = vm.rfcViommu(device, parent);
    expect(vm.destroy(parent)).toBe(-EBUSY);
    expect(vm.destroy(viommu)).toBe(0);
    expect(vm.destroy(parent)).toBe(0);
  });

  it('refuses flags', () => {
    const { vm, device, parent } = setUp();
    const values = { flags: 1, dev_id: device.id, hwpt_id: parent };
    expect(vm.call(rfc.IOMMU_RFC_VIOMMU_ALLOC, rfc.iommu_rfc_viommu_alloc, values).rc).toBe(-EOPNOTSUPP);
  });

  it('shares its stage 2 with viommus of other physical IOMMUs: what is mapped and unmapped counts for all', () => {
    const { vm, devices, parent } = setUp();
    const [here, , there] = devices as [Passed, Passed, Passed];
    const viommus = [vm.rfcViommu(here, parent), vm.rfcViommu(there, parent)];
    expect(vm.attach(here, viommus[0]!)).toBe(0);
    expect(vm.attach(there, viommus[1]!)).toBe(0);
    const page = vm.guest.page();
    vm.guest.write(page, 'one memory');
    expect([here, there].map((each) => vm.deviceReads(each, page, 10))).toEqual(['one memory', 'one memory']);
    expect(vm.deviceWrites(there, page, 'ONE')).toBe(0);
    expect(vm.deviceReads(here, page, 10)).toBe('ONE memory');
    vm.exchangeMemory('other page');
    expect([here, there].map((each) => vm.deviceReads(each, page, 10))).toEqual(['other page', 'other page']);
    expect(vm.unmap(vm.ioasId, GUEST, 0x100_0000n).rc).toBe(0);
    expect([here, there].map((each) => vm.deviceReads(each, page, 10))).toEqual([EIO, EIO]);
  });

  it('is what a group can be attached to: its devices then have the stage 2', () => {
    const { vm, devices, device, parent } = setUp();
    const viommu = vm.rfcViommu(device, parent);
    expect(vm.attach(device, viommu)).toBe(0);
    expect(vm.destroy(viommu)).toBe(-EBUSY);
    const page = vm.guest.page();
    expect(vm.deviceWrites(device, page, 'arrived')).toBe(0);
    expect(vm.guest.text(page, 7)).toBe('arrived');
    expect(vm.attach(devices[2]!, viommu)).toBe(EINVAL);
    vm.detach(device);
    expect(vm.deviceReads(device, page, 7)).toBe(EIO);
    expect(vm.destroy(viommu)).toBe(0);
  });

  it('carries nested HWPTs: they are asked for with its id and its parent’s', () => {
    const { vm, devices, device, parent } = setUp();
    const viommu = vm.rfcViommu(device, parent);
    const { nested } = vendor.stage1(vm.guest);
    const other = vm.parent(device);
    expect(vm.tryRfcNested(device, other, viommu, nested).rc).toBe(-EINVAL);
    expect(vm.tryRfcNested(device, vm.ioasId, viommu, nested).rc).toBe(-EINVAL);
    expect(vm.tryRfcNested(devices[2]!, parent, viommu, nested).rc).toBe(-EINVAL);
    expect(vm.tryRfcNested(device, parent, 999, nested).rc).toBe(-ENOENT);
    const hwpt = vm.rfcNested(device, parent, viommu, nested);
    expect(vm.destroy(viommu)).toBe(-EBUSY);
    expect(vm.destroy(hwpt)).toBe(0);
    expect(vm.destroy(viommu)).toBe(0);
  });

  it('lets the guest’s own tables lead its device', () => {
    const { seen, change, vm, device } = nestedVm(vendor);
    expect(seen()).toBe('old');
    change();
    expect(seen()).toBe('old');
    expect(vm.deviceReads(device, IOVA + 0x1000n, 3)).toBe(EIO);
  });
});

describe.each(NAMED_CASES)('a virtual id on $name', (vendor) => {
  const setUp = () => {
    const vm = new Vm(trialMachine(vendor.vendor, vendor.vendor));
    const devices = [0, 1, 2].map((index) => vm.pass(index)) as [Passed, Passed, Passed];
    const parent = vm.parent(devices[0]);
    return { vm, devices, parent, viommu: vm.rfcViommu(devices[0], parent) };
  };

  it('names one device of a viommu, and can be changed', () => {
    const { vm, devices, viommu } = setUp();
    expect(vm.assign(devices[0], viommu, vendor.idType, 1n)).toBe(0);
    expect(vm.assign(devices[0], viommu, vendor.idType, 1n)).toBe(0);
    expect(vm.assign(devices[1], viommu, vendor.idType, 1n)).toBe(EEXIST);
    expect(vm.assign(devices[0], viommu, vendor.idType, 2n)).toBe(0);
    expect(vm.assign(devices[1], viommu, vendor.idType, 1n)).toBe(0);
    expect(vm.assign(devices[0], viommu, vendor.idType, 1n)).toBe(EEXIST);
  });

  it('is of a type that the hardware has, and fits it', () => {
    const { vm, devices, viommu } = setUp();
    expect(vm.assign(devices[0], viommu, vendor.foreignIdType, 1n)).toBe(EOPNOTSUPP);
    expect(vm.assign(devices[0], viommu, 77, 1n)).toBe(EOPNOTSUPP);
    expect(vm.assign(devices[0], viommu, vendor.idType, vendor.idLast + 1n)).toBe(EINVAL);
    expect(vm.assign(devices[0], viommu, vendor.idType, vendor.idLast)).toBe(0);
  });

  it('is refused for a device behind another physical IOMMU', () => {
    const { vm, devices, parent, viommu } = setUp();
    expect(vm.assign(devices[2], viommu, vendor.idType, 1n)).toBe(EINVAL);
    expect(vm.assign(devices[2], vm.rfcViommu(devices[2], parent), vendor.idType, 1n)).toBe(0);
  });

  it('goes with the device, and with the viommu', () => {
    const { vm, devices, parent, viommu } = setUp();
    expect(vm.assign(devices[0], viommu, vendor.idType, 1n)).toBe(0);
    vm.giveBack(devices[0]);
    expect(vm.assign(devices[1], viommu, vendor.idType, 1n)).toBe(0);
    expect(vm.destroy(viommu)).toBe(0);
    const next = vm.rfcViommu(devices[1], parent);
    expect(vm.assign(devices[1], next, vendor.idType, 1n)).toBe(0);
  });

  it('can be kept by the nest parent of a machine with one IOMMU', () => {
    const { vm, devices, parent } = setUp();
    expect(vm.assign(devices[0], parent, vendor.idType, 1n)).toBe(0);
    expect(vm.assign(devices[1], parent, vendor.idType, 1n)).toBe(EEXIST);
    expect(vm.assign(devices[2], parent, vendor.idType, 2n)).toBe(EINVAL);
    const plain = vm.hwpt(devices[0].id, vm.ioasId);
    expect(vm.assign(devices[0], plain, vendor.idType, 1n)).toBe(EINVAL);
    expect(vm.assign(devices[0], vm.ioasId, vendor.idType, 1n)).toBe(ENOENT);
  });

  it('that the nest parent keeps is enough for the guest’s own tables', () => {
    const vm = new Vm(trialMachine(vendor.vendor));
    const device = vm.pass(0);
    const parent = vm.parent(device);
    const tables = vendor.stage1(vm.guest);
    expect(vm.assign(device, parent, vendor.idType, 0x99n)).toBe(0);
    const hwpt = vm.rfcNested(device, parent, 0, tables.nested);
    expect(vm.attach(device, hwpt)).toBe(0);
    expect(pages(vm, tables, device).seen()).toBe('old');
    expect(vm.destroy(parent)).toBe(-EBUSY);
    vm.detach(device);
    expect(vm.destroy(hwpt)).toBe(0);
    expect(vm.destroy(parent)).toBe(0);
    expect(vm.assign(device, vm.parent(device), vendor.idType, 0x99n)).toBe(0);
  });
});

it('devices behind VT-d have no virtual ids: the thread has none for them', () => {
  const vm = new Vm(trialMachine(intelIommu));
  const device = vm.pass(0);
  const viommu = vm.rfcViommu(device, vm.parent(device));
  for (const type of Object.values(rfc.iommu_dev_virtual_id_type))
    expect(vm.assign(device, viommu, type, 1n)).toBe(EOPNOTSUPP);
});

describe('AMD’s domain ids', () => {
  it('are of several devices, beside their device ids', () => {
    const vm = new Vm(trialMachine(amdIommu));
    const devices = [vm.pass(0), vm.pass(1)];
    const viommu = vm.rfcViommu(devices[0]!, vm.parent(devices[0]!));
    const { IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID: DID, IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID: RID } =
      rfc;
    for (const device of devices) expect(vm.assign(device, viommu, DID, 7n)).toBe(0);
    expect(vm.assign(devices[0]!, viommu, RID, 7n)).toBe(0);
    expect(vm.assign(devices[1]!, viommu, RID, 7n)).toBe(EEXIST);
    expect(vm.assign(devices[1]!, viommu, DID, 0x1_0000n)).toBe(EINVAL);
  });

  it('and a viommu of the thread go with the hardware vIOMMU of amd-viommu in one machine', () => {
    const vm = new Vm(new Kernel({ parts: partsOf(amdIommu), uapis: ['rfc-2023-12', 'amd-viommu'] }));
    const device = vm.pass(0);
    const parent = vm.parent(device);
    const viommu = vm.rfcViommu(device, parent);
    vm.name(device, viommu, amd.idType, 0x99n);
    const tables = amd.stage1(vm.guest);
    expect(vm.attach(device, vm.rfcNested(device, parent, viommu, tables.nested))).toBe(0);
    expect(pages(vm, tables, device).seen()).toBe('old');
  });

  it('of one guest that several nested HWPTs have are one of the host’s, and another guest’s are another', () => {
    const vm = new Vm(trialMachine(amdIommu));
    const [first, second] = [vm.pass(0), vm.pass(1)];
    const parent = vm.parent(first);
    const domains: number[] = [];
    vm.kernel.trace.subscribe((event) => {
      if (event.kind === 'command' && event['name'] === 'INVALIDATE_IOMMU_PAGES')
        domains.push((event['words'] as number[])[1]! & 0xffff);
    });
    const { nested } = amd.stage1(vm.guest);
    const viommus = [vm.rfcViommu(first, parent), vm.rfcViommu(first, parent)];
    const on = (viommu: number): number => vm.rfcNested(first, parent, viommu, nested);
    const hwpts = [on(viommus[0]!), on(viommus[0]!), on(viommus[1]!)];
    expect(vm.attach(second, hwpts[0]!)).toBe(0);
    domains.length = 0;
    for (const hwpt of hwpts) expect(vm.iotlbSync(hwpt, amd.iotlbCommand(IOVA))).toEqual([0, 1]);
    expect(domains).toHaveLength(3);
    expect(domains[0]).toBe(domains[1]);
    expect(domains[2]).not.toBe(domains[0]);
  });
});

describe.each(VENDOR_CASES)('invalidations of the thread on $name', (vendor) => {
  it('are for the IOTLB, by its HWPT, and for the device, by its id', () => {
    const { vm, device, hwpt, change, seen } = nestedVm(vendor);
    expect(seen()).toBe('old');
    change();
    const { atcCommand, iotlbCommand } = vendor;
    const names: string[] = [];
    vm.kernel.trace.subscribe((event) => {
      if (event.kind === 'command') names.push(String(event['name']));
    });
    expect(vm.iotlbSync(hwpt, iotlbCommand(IOVA))).toEqual([0, 1]);
    expect(names).toEqual(vendor.iotlbCommands);
    if (atcCommand !== null) {
      // The guest has not yet told the ATC. Which id it has for the device does not matter.
      expect(seen()).toBe('old');
      expect(vm.devInvalidate(device, atcCommand(0x12345n & vendor.idLast, IOVA))).toEqual([0, 1]);
    }
    expect(seen()).toBe('new');
  });

  it('are refused where they are of the other kind, of another type, or nobody’s', () => {
    const { vm, device, hwpt, viommu } = nestedVm(vendor);
    const { atcCommand, iotlbCommand } = vendor;
    const iotlb = iotlbCommand(IOVA);
    expect(vm.iotlbSync(hwpt, { ...iotlb, type: 77 })).toEqual([EINVAL, 0]);
    if (atcCommand === null) return;
    const atc = atcCommand(0x99n, IOVA);
    const both = { ...iotlb, bytes: Uint8Array.of(...iotlb.bytes, ...atc.bytes) };
    expect(vm.iotlbSync(hwpt, both)).toEqual([EIO, 1]);
    expect(vm.devInvalidate(device, both)).toEqual([EIO, 0]);
    expect(vm.devInvalidate(device, { ...atc, type: 77 })).toEqual([EINVAL, 0]);
    // No opcode is 0, nor are all bits ever set.
    for (const byte of [0, 0xff]) {
      const data = { ...atc, bytes: new Uint8Array(16).fill(byte) };
      expect(vm.devInvalidate(device, data)).toEqual([EIO, 0]);
      expect(vm.iotlbSync(hwpt, data)).toEqual([EIO, 0]);
    }
    // Linux's request for all in one looks the device up.
    expect(vm.hwptInvalidate(viommu, both)).toEqual([0, 2]);
    expect(vm.hwptInvalidate(viommu, atcCommand(0x98n, IOVA))).toEqual([EIO, 0]);
  });

  it('of a device are EOPNOTSUPP where the driver makes them itself', () => {
    const { vm, device, hwpt } = nestedVm(vendor);
    const data = (vendor.atcCommand ?? ((_id, iova) => vendor.iotlbCommand(iova)))(0x99n, IOVA);
    expect(vm.devInvalidate(device, data)).toEqual(vendor.atcCommand === null ? [EOPNOTSUPP, 0] : [0, 1]);
    expect(vm.devInvalidate({ fd: -1, id: hwpt }, data)).toEqual([ENOENT, 0]);
  });

  it('of an IOTLB take a HWPT that has one', () => {
    const { vm, viommu, device } = nestedVm(vendor);
    const data = vendor.iotlbCommand(IOVA);
    expect(vm.iotlbSync(viommu, data)).toEqual([EINVAL, 0]);
    expect(vm.iotlbSync(vm.ioasId, data)).toEqual([EINVAL, 0]);
    expect(vm.iotlbSync(999, data)).toEqual([ENOENT, 0]);
    expect(vm.iotlbSync(vm.hwpt(device.id, vm.ioasId), data)).toEqual([EOPNOTSUPP, 0]);
  });
});
