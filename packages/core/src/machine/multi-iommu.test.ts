import { describe, expect, it } from 'vitest';
import { EINVAL, EIO, EOPNOTSUPP } from '../abi/errno.ts';
import { IOMMU_VIOMMU_TYPE_AMD } from '../abi/amd-viommu.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT } from '../abi/iommufd.ts';
import { IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID } from '../abi/rfc-2023-12.ts';
import { amdIommu } from './iommus/amd-iommu.ts';
import { armSmmuV3 } from './iommus/arm-smmu-v3.ts';
import { intelIommu } from './iommus/intel-iommu.ts';
import type { IommuSettings, Vendor } from './iommus/vendor.ts';
import { allocViommu } from './testing/amd-guest.ts';
import { partsOf, trialMachine, VENDOR_CASES, type IommuSpec } from './testing/vendors.ts';
import { GUEST, PLUGGED, Vm, type Passed } from './testing/vm.ts';
import { Kernel } from './kernel.ts';

// Machines with several IOMMUs: what their devices may share, and what they may not.

const IOVA = 0x7000n;
const FOUR = [0, 1, 2, 3];

/** A VM with one device behind each of the machine's IOMMUs. */
function vmWith(...iommus: readonly IommuSpec[]): { vm: Vm; devices: Passed[] } {
  const vm = new Vm(trialMachine(...iommus));
  return { vm, devices: iommus.map((_, index) => vm.pass(2 * index)) };
}

const withViommus = VENDOR_CASES.filter(({ viommuType }) => viommuType !== null);

describe.each(withViommus)('Linux with four IOMMUs, each $name', ({ vendor, viommuType, stage1 }) => {
  const setUp = () => {
    const vm = new Vm(new Kernel({ parts: partsOf(vendor, vendor, vendor, vendor) }));
    const devices = FOUR.map((index) => vm.pass(2 * index));
    const parents = devices.map((each) => vm.parent(each));
    const viommus = devices.map((each, index) => {
      const values = { type: viommuType!, dev_id: each.id, hwpt_id: parents[index]! };
      const { rc, out } = vm.tryViommu(values);
      expect(rc).toBe(0);
      return out.out_viommu_id;
    });
    return { vm, devices, parents, viommus };
  };

  it('takes a vDEVICE on the viommu of its own physical IOMMU only', () => {
    const { vm, devices, viommus } = setUp();
    for (const [i, viommu] of viommus.entries())
      for (const [j, { id }] of devices.entries())
        if (i !== j) expect(vm.tryVdevice(viommu, id, 1n).rc).toBe(-EINVAL);
    // Each viommu has a table of its own: all may have one virtual id.
    for (const [index, viommu] of viommus.entries())
      expect(vm.tryVdevice(viommu, devices[index]!.id, 1n).rc).toBe(0);
  });

  it('makes a nested HWPT on a viommu for devices of its own physical IOMMU only', () => {
    const { vm, devices, viommus } = setUp();
    const { nested } = stage1(vm.guest);
    expect(vm.linuxNested(devices[1]!, viommus[0]!, nested).errno).toBe(EINVAL);
  });

  it('runs a VM with a device behind each of them', () => {
    const { vm, devices, viommus } = setUp();
    for (const [index, device] of devices.entries()) {
      vm.vdevice(viommus[index]!, device.id, 0x10n + BigInt(index));
      const tables = stage1(vm.guest);
      const page = vm.guest.page();
      vm.guest.write(page, `page ${index}`);
      tables.map(IOVA, page);
      const { errno, id } = vm.linuxNested(device, viommus[index]!, tables.nested);
      expect([errno, vm.attach(device, id)]).toEqual([0, 0]);
    }
    expect(devices.map((each) => vm.deviceReads(each, IOVA, 6))).toEqual(FOUR.map((i) => `page ${i}`));
    expect(vm.unmap(vm.ioasId, GUEST, 0x100_0000n).rc).toBe(0);
    expect(devices.map((each) => vm.deviceReads(each, IOVA, 6))).toEqual(FOUR.map(() => EIO));
  });
});

describe('Linux with SMMUs', () => {
  it('has a stage 2 for each of them: one is refused to a device behind another', () => {
    const { vm, devices } = vmWith(armSmmuV3, armSmmuV3);
    const parent = vm.parent(devices[0]!);
    expect(vm.attach(devices[1]!, parent)).toBe(EINVAL);
    expect(vm.attach(devices[0]!, parent)).toBe(0);
  });

  it('gives an IOAS a domain for each SMMU by itself', () => {
    const { vm, devices } = vmWith(armSmmuV3, armSmmuV3, armSmmuV3, armSmmuV3);
    const page = vm.guest.page();
    for (const [index, device] of devices.entries()) {
      expect(vm.attach(device, vm.ioasId)).toBe(0);
      expect(vm.deviceWrites(device, page + BigInt(index), String(index))).toBe(0);
    }
    expect(vm.guest.text(page, 4)).toBe('0123');
  });
});

describe.each([
  ['VT-d', intelIommu],
  ['AMD', amdIommu],
])('Linux with IOMMUs of %s', (_, vendor) => {
  it('has one stage 2 for all of them', () => {
    const { vm, devices } = vmWith(vendor, vendor, vendor, vendor);
    const parent = vm.parent(devices[0]!);
    const page = vm.guest.page();
    for (const [index, device] of devices.entries()) {
      expect(vm.attach(device, parent)).toBe(0);
      expect(vm.deviceWrites(device, page + BigInt(index), String(index))).toBe(0);
    }
    expect(vm.guest.text(page, 4)).toBe('0123');
    vm.exchangeMemory('else');
    expect(devices.map((each) => vm.deviceReads(each, page, 4))).toEqual(devices.map(() => 'else'));
  });
});

type Registers = IommuSettings['registers'];
const noFirstStage = { FSTS: 0, NEST: 0, EAFS: 0 };
const noPageRequests = { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 };

describe.each<readonly [string, Vendor, readonly (readonly Registers[])[]]>([
  [
    'VT-d',
    intelIommu,
    [
      [{}, { ECAP: noFirstStage }],
      [{ ECAP: noFirstStage }, {}],
      [{}, { ECAP: { SMPWCS: 0, EAFS: 0, SSADS: 0 } }, { CAP: { FS5LP: 0 } }, { CAP: { FS1GP: 0 } }],
      [{ ECAP: { SC: 0 } }, {}, { ECAP: { ...noFirstStage, SC: 0 } }, { ECAP: noFirstStage }],
      [
        { CAP: { SAGAW: 2, MGAW: 38 }, ECAP: noFirstStage },
        { CAP: { SAGAW: 8 }, ECAP: noFirstStage },
        { CAP: { SSLPS: 0 }, ECAP: noFirstStage },
        { CAP: { CM: 1 }, ECAP: noFirstStage },
      ],
    ],
  ],
  [
    'AMD',
    amdIommu,
    [
      [{}, { EFR: { HATS: 0 } }],
      [{ EFR: { HATS: 0 } }, {}],
      [{}, { EFR: { GTSup: 0, GIoSup: 0 } }, { EFR: { HASup: 0, HDSup: 0 } }, { EFR: { IASup: 0 } }],
      [{ EFR: noPageRequests }, {}, { EFR2: { HTRangeIgnore: 0 } }, { EFR: { DevTblSegSup: 0 } }],
      [{ EFR: { GATS: 0 } }, { EFR: { GATS: 2 } }, { EFR: { PASMax: 3 } }, { EFR: { GLXSup: 0 } }],
    ],
  ],
])('Linux with IOMMUs of %s of mixed capabilities', (_, vendor, machines) => {
  it.each(machines.map((each) => [each]))('has one IOAS for all of %j', (units) => {
    const { vm, devices } = vmWith(...units.map((registers) => ({ vendor, registers })));
    const page = vm.guest.page();
    for (const [index, device] of devices.entries()) {
      expect(vm.attach(device, vm.ioasId)).toBe(0);
      expect(vm.deviceWrites(device, page + BigInt(index), String(index))).toBe(0);
    }
    expect(vm.guest.text(page, devices.length)).toBe('0123'.slice(0, devices.length));
    vm.exchangeMemory('else');
    expect(devices.map((each) => vm.deviceReads(each, page, 4))).toEqual(devices.map(() => 'else'));
  });
});

describe('Linux with IOMMUs of AMD', () => {
  it.each([
    ['Linux 7.3', undefined],
    ['the hardware vIOMMU', 'amd-viommu'],
  ] as const)('takes a vDEVICE on the viommu of its own physical IOMMU only, with %s', (__, uapi) => {
    const kernel = new Kernel({
      parts: partsOf(amdIommu, amdIommu, intelIommu),
      ...(uapi !== undefined && { uapis: [uapi] }),
    });
    const vm = new Vm(kernel);
    const devices = [0, 2, 4].map((index) => vm.pass(index));
    const parent = vm.parent(devices[0]!);
    const viommus = [0, 1].map((index) => {
      const { errno, id } = allocViommu(vm, devices[index]!, parent, IOMMU_VIOMMU_TYPE_AMD);
      expect(errno).toBe(0);
      return id;
    });
    const [first, second] = viommus as [number, number];
    const errnos = (viommu: number): number[] =>
      devices.map((each) => Math.abs(vm.tryVdevice(viommu, each.id, 8n).rc));
    expect(errnos(first)).toEqual([0, EINVAL, EINVAL]);
    expect(errnos(second)).toEqual([EINVAL, 0, EINVAL]);
  });
});

describe.each(VENDOR_CASES)('the trial uAPI with four IOMMUs, each $name', ({ vendor, stage1, idType }) => {
  it('names them, so that a VMM knows how many viommus it needs', () => {
    const kernel = trialMachine(vendor, vendor, vendor, vendor);
    const vm = new Vm(kernel);
    const devices = [0, 1, 2, 3, 4, 5, 6, 7].map((index) => vm.pass(index));
    const ids = devices.map((each) => vm.piommu(each));
    expect(ids).toEqual([1, 1, 2, 2, 3, 3, 4, 4]);
    vm.giveBack(devices[6]!);
    const other = new Vm(kernel, 200);
    expect(other.piommu(other.pass(6))).toBe(4);
  });

  it('runs a VM on one stage 2, with a viommu for each', () => {
    const { vm, devices } = vmWith(vendor, vendor, vendor, vendor);
    const parent = vm.parent(devices[0]!);
    vm.plug('first');
    const viommuOf = new Map<number, number>();
    for (const [index, device] of devices.entries()) {
      const piommu = vm.piommu(device);
      const viommu = viommuOf.get(piommu) ?? vm.rfcViommu(device, parent);
      viommuOf.set(piommu, viommu);
      // One virtual id in four tables.
      vm.name(device, viommu, idType, 9n);
      const tables = stage1(vm.guest);
      const page = vm.guest.page();
      vm.guest.write(page, `page ${index}`);
      tables.map(IOVA, page);
      tables.map(IOVA + 0x1000n, PLUGGED);
      expect(vm.attach(device, vm.rfcNested(device, parent, viommu, tables.nested))).toBe(0);
    }
    expect(viommuOf.size).toBe(4);
    expect(devices.map((each) => vm.deviceReads(each, IOVA, 6))).toEqual(FOUR.map((i) => `page ${i}`));
    const plugged = (): unknown[] => devices.map((each) => vm.deviceReads(each, IOVA + 0x1000n, 5));
    expect(plugged()).toEqual(FOUR.map(() => 'first'));
    // What the VMM changes in its stage 2 is gone from what is cached of the guest's tables in each of them.
    vm.plug('after');
    expect(plugged()).toEqual(FOUR.map(() => 'after'));
    expect(vm.unmap(vm.ioasId, GUEST, 0x100_0000n).rc).toBe(0);
    expect(devices.map((each) => vm.deviceReads(each, IOVA, 6))).toEqual(FOUR.map(() => EIO));
  });

  it('gives all back when devices and files are closed', () => {
    const { vm, devices } = vmWith(vendor, vendor, vendor, vendor);
    const parent = vm.parent(devices[0]!);
    for (const device of devices) expect(vm.attach(device, vm.rfcViommu(device, parent))).toBe(0);
    const { context } = vm;
    vm.process.exit();
    expect(context.objects.empty).toBe(true);
    expect(vm.kernel.physical.frames.pinned).toBe(0);
  });
});

describe('a machine of mixed vendors', () => {
  const setUp = () => vmWith(armSmmuV3, intelIommu, amdIommu);

  it('has one VM do DMA through all of them, and takes its memory from all of them', () => {
    const { vm, devices } = setUp();
    const page = vm.guest.page();
    vm.guest.write(page, '....');
    for (const [index, device] of devices.entries()) {
      expect(vm.attach(device, vm.ioasId)).toBe(0);
      expect(vm.deviceWrites(device, page + BigInt(index), String(index))).toBe(0);
    }
    expect(vm.guest.text(page, 4)).toBe('012.');
    vm.exchangeMemory('else');
    expect(devices.map((each) => vm.deviceReads(each, page, 4))).toEqual(devices.map(() => 'else'));
  });

  it('refuses a device what is another vendor’s: an HWPT, a viommu, a virtual id', () => {
    const { vm, devices } = setUp();
    const [arm, intel, amd] = devices as [Passed, Passed, Passed];
    const parents = devices.map((each) => vm.parent(each));
    for (const [i, device] of devices.entries())
      for (const [j, parent] of parents.entries()) {
        if (i === j) continue;
        expect(vm.attach(device, parent)).toBe(EINVAL);
        expect([-EINVAL, -EOPNOTSUPP]).toContain(vm.tryRfcViommu(device, parent).rc);
      }
    const viommu = vm.rfcViommu(arm, parents[0]!);
    expect(vm.attach(intel, viommu)).toBe(EINVAL);
    expect(vm.tryVdevice(viommu, amd.id, 1n).rc).toBe(-EINVAL);
    expect(vm.assign(intel, viommu, IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID, 1n)).toBe(EOPNOTSUPP);
  });

  it('names them apart', () => {
    const { vm, devices } = setUp();
    expect(devices.map((each) => vm.piommu(each))).toEqual([1, 2, 3]);
  });
});

describe('SMMUs of mixed capabilities', () => {
  const full = armSmmuV3;
  const smmu = (registers: Record<string, Record<string, number>>): IommuSpec => ({
    vendor: armSmmuV3,
    registers,
  });
  const noStage2 = smmu({ IDR0: { S2P: 0, Hyp: 0, VMID16: 0, VMW: 0 } });
  const small = smmu({ IDR5: { OAS: 2, VAX: 0, DS: 0 } });

  it('nest where they can: one without stage 2 has neither a nest parent nor a viommu', () => {
    const { vm, devices } = vmWith(full, noStage2);
    const flags = IOMMU_HWPT_ALLOC_NEST_PARENT;
    const values = { dev_id: devices[1]!.id, pt_id: vm.ioasId, flags };
    expect(vm.tryHwpt(values).rc).toBe(-EOPNOTSUPP);
    expect(vm.tryRfcViommu(devices[1]!, vm.parent(devices[0]!)).rc).toBe(-EOPNOTSUPP);
    expect(vm.attach(devices[1]!, vm.ioasId)).toBe(0);
  });

  it('share a stage 2 that the lesser can walk, and not one that it cannot', () => {
    const { vm, devices } = vmWith(full, small);
    expect(vm.tryRfcViommu(devices[1]!, vm.parent(devices[0]!)).rc).toBe(-EINVAL);
    const parent = vm.parent(devices[1]!);
    const viommus = devices.map((each) => vm.rfcViommu(each, parent));
    const page = vm.guest.page();
    for (const [index, device] of devices.entries()) {
      expect(vm.attach(device, viommus[index]!)).toBe(0);
      expect(vm.deviceWrites(device, page + BigInt(index), String(index))).toBe(0);
    }
    expect(vm.guest.text(page, 2)).toBe('01');
  });

  it.each([
    ['pages of 64 KiB only', { IDR5: { GRAN4K: 0, GRAN16K: 0 } }],
    ['no forced write-back', { IDR3: { FWB: 0 } }],
  ])('do not share a stage 2 with one that has %s', (_, registers) => {
    const { vm, devices } = vmWith(full, smmu(registers), smmu({}));
    const parent = vm.parent(devices[0]!);
    expect(devices.map((each) => vm.tryRfcViommu(each, parent).rc)).toEqual([0, -EINVAL, 0]);
  });

  it('invalidate in each what each has: one by ranges, one page by page', () => {
    const { vm, devices } = vmWith(full, smmu({ IDR3: { RIL: 0 } }));
    const parent = vm.parent(devices[0]!);
    const page = vm.guest.page();
    for (const device of devices) {
      expect(vm.attach(device, vm.rfcViommu(device, parent))).toBe(0);
      expect(vm.deviceWrites(device, page, 'x')).toBe(0);
    }
    vm.exchangeMemory('other');
    expect(devices.map((each) => vm.deviceReads(each, page, 5))).toEqual(['other', 'other']);
  });
});
