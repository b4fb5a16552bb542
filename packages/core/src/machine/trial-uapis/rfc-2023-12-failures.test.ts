import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IOMMU_HWPT_ALLOC_NEST_PARENT } from '../../abi/iommufd.ts';
import { failEverywhere } from '../../iommu/testing/fail-nth.ts';
import { armSmmuV3 } from '../iommus/arm-smmu-v3.ts';
import { trialMachine, VENDOR_CASES, type VendorCase } from '../testing/vendors.ts';
import { Vm, type Passed } from '../testing/vm.ts';

// The trial uAPI rfc-2023-12 where memory is short, and where a program asks for anything at all.

const IOVA = 0x5000n;

/** A VM with devices behind two IOMMUs, and a nest parent of the first. */
function setUp({ vendor }: VendorCase) {
  const vm = new Vm(trialMachine(vendor, vendor));
  const [here, there] = [vm.pass(0), vm.pass(2)];
  return { vm, here, there, parent: vm.parent(here) };
}

/** What must be as before where a request fails. */
function state(vm: Vm): unknown {
  const { physical } = vm.kernel;
  return [vm.context.objects.size, physical.ram.size, physical.frames.pinned];
}

/** At how many points the request can fail, none of which changes what is seen. */
function failsCleanly(vm: Vm, request: () => number, seen: (vm: Vm) => unknown = state): number {
  const before = seen(vm);
  return failEverywhere(vm, request, () => expect(seen(vm)).toEqual(before));
}

describe.each(VENDOR_CASES)('running out of memory with $name', (vendor) => {
  it('while a viommu is made leaves nothing behind', () => {
    const { vm, here, there, parent } = setUp(vendor);
    expect(failsCleanly(vm, () => vm.tryRfcViommu(here, parent).rc)).toBeGreaterThan(3);
    expect(failsCleanly(vm, () => vm.tryRfcViommu(there, parent).rc)).toBeGreaterThan(3);
  });

  it('while a nested HWPT is made leaves nothing behind', () => {
    const { vm, here, parent } = setUp(vendor);
    const { nested } = vendor.stage1(vm.guest);
    const viommu = vm.rfcViommu(here, parent);
    expect(failsCleanly(vm, () => vm.tryRfcNested(here, parent, viommu, nested).rc)).toBeGreaterThan(4);
  });

  it('while it is made on a nest parent leaves nothing behind, but for the table that this keeps', () => {
    const { vm, here, parent } = setUp(vendor);
    const { nested } = vendor.stage1(vm.guest);
    expect(failsCleanly(vm, () => vm.tryRfcNested(here, parent, 0, nested).rc)).toBeGreaterThan(4);
  });

  it('while a device is attached to a viommu of another physical IOMMU leaves it as it was', () => {
    const { vm, there, parent } = setUp(vendor);
    const viommu = vm.rfcViommu(there, parent);
    // A device may keep what was made for it to have PASIDs.
    const objects = (): number => vm.context.objects.size;
    expect(failsCleanly(vm, () => vm.attach(there, viommu), objects)).toBeGreaterThan(2);
    const page = vm.guest.page();
    expect(vm.deviceWrites(there, page, 'x')).toBe(0);
  });

  it('while commands are sent tells that they were not', () => {
    const { vm, here, parent } = setUp(vendor);
    const hwpt = vm.rfcNested(here, parent, vm.rfcViommu(here, parent), vendor.stage1(vm.guest).nested);
    expect(failsCleanly(vm, () => vm.iotlbSync(hwpt, vendor.iotlbCommand(IOVA))[0])).toBeGreaterThan(1);
  });
});

// ---- anything at all ----

// The IOAS is 1, devices are 2 to 5, the first parent is 6, its viommus 7 and 8, and what is made gets the next ids.
const parentId = fc.oneof(
  { weight: 3, arbitrary: fc.constant(6) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 12 }) },
);
const laterId = fc.oneof(fc.integer({ min: 7, max: 8 }), fc.integer({ min: 0, max: 12 }));
const step = fc.record({
  what: fc.constantFrom(
    'viommu',
    'nested',
    'assign',
    'attach',
    'detach',
    'dma',
    'sync',
    'invalidate',
    'destroy',
    'parent',
    'linux',
    'vdevice',
    'close',
    'memory',
  ),
  device: fc.integer({ min: 0, max: 4 }),
  parent: parentId,
  on: laterId,
  number: fc.integer({ min: 0, max: 3 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Does it with ids of whatever is there, or is not. */
function take(
  vm: Vm,
  devices: Passed[],
  vendor: VendorCase,
  { what, device, parent, on, number }: Step,
): void {
  const which = devices[device] ?? { fd: devices[0]!.fd, id: 99 };
  const { nested, map } = vendor.stage1(vm.guest);
  map(IOVA, vm.guest.ipa);
  switch (what) {
    case 'viommu':
      return void vm.tryRfcViommu(which, parent);
    case 'nested':
      return void vm.tryRfcNested(which, parent, number === 0 ? 0 : on, nested);
    case 'assign':
      return void vm.assign(which, number === 0 ? parent : on, vendor.idType ?? 0, BigInt(number));
    case 'attach':
      return void vm.attach(which, number === 0 ? parent : on);
    case 'detach':
      return void vm.detach(which);
    case 'dma':
      return void vm.deviceReads(which, number < 2 ? IOVA : vm.guest.ipa, 4);
    case 'sync':
      return void vm.iotlbSync(on, vendor.iotlbCommand(IOVA));
    case 'invalidate':
      return void vm.devInvalidate(which, (vendor.atcCommand ?? (() => vendor.iotlbCommand(IOVA)))(1n, IOVA));
    case 'destroy':
      return void vm.destroy(number === 0 ? parent : on);
    case 'parent':
      return void vm.tryHwpt({ dev_id: which.id, pt_id: vm.ioasId, flags: IOMMU_HWPT_ALLOC_NEST_PARENT });
    case 'linux':
      return void vm.linuxNested(which, on, nested);
    case 'vdevice':
      return void vm.tryVdevice(on, which.id, BigInt(number));
    case 'close':
      if (devices[device] === undefined) return;
      vm.giveBack(which);
      devices[device] = vm.pass(device);
      return;
    case 'memory':
      return vm.exchangeMemory('else');
  }
}

describe.each(VENDOR_CASES)('any requests in any order with $name', (vendor) => {
  it('break nothing, and all is given back in the end', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
        const vm = new Vm(trialMachine(vendor.vendor, vendor.vendor));
        const devices = [0, 1, 2, 3].map((index) => vm.pass(index));
        const parent = vm.parent(devices[0]!);
        for (const index of [0, 2])
          vm.name(devices[index]!, vm.rfcViommu(devices[index]!, parent), vendor.idType, 1n);
        for (const each of steps) take(vm, devices, vendor, each);
        const { context } = vm;
        vm.process.exit();
        expect(context.objects.empty).toBe(true);
        expect(vm.kernel.physical.frames.pinned).toBe(0);
      }),
      { numRuns: 20 },
    );
  });
});

it('attaching to a parent and to its viommu in turn keeps the device’s translations', () => {
  const vm = new Vm(trialMachine(armSmmuV3));
  const device = vm.pass(0);
  const parent = vm.parent(device);
  const viommu = vm.rfcViommu(device, parent);
  const page = vm.guest.page();
  for (const to of [parent, viommu, parent, viommu]) {
    expect(vm.attach(device, to)).toBe(0);
    expect(vm.deviceWrites(device, page, 'x')).toBe(0);
  }
  vm.exchangeMemory('other');
  expect(vm.deviceReads(device, page, 5)).toBe('other');
});
