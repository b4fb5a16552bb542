import { describe, expect, it } from 'vitest';
import { EIO } from '../../abi/errno.ts';
import { IOMMU_HWPT_DATA_ARM_SMMUV3, IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 } from '../../abi/iommufd.ts';
import {
  IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3,
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3,
} from '../../abi/rfc-2023-12.ts';
import { guestCommand, guestSte, writeGuestCd } from '../../iommu/arm-smmu-v3/testing/guest.ts';
import { GuestTables } from '../../iommu/testing/guest.ts';
import { armSmmuV3 } from '../iommus/arm-smmu-v3.ts';
import { smmuCommands, trialMachine, VENDOR_CASES, words } from '../testing/vendors.ts';
import { Vm } from '../testing/vm.ts';

// Why Linux dropped IOMMU_DEV_INVALIDATE: message 10 of the thread. A guest has one command queue, and its order is what
// makes invalidations work: what fills a cache must be clean before the cache is. Sent by two requests, the commands for
// IOTLBs and those for devices lose it, and DMA in between refills a cache from one that is still stale.

type Command = readonly [bigint, bigint];

const SID = 0x99;
const ASID = 5;
const [FIRST, SECOND] = [0x5000n, 0x6000n];

/** A guest whose device has an ATC and reads two pages through the guest's tables. */
function guest() {
  const kernel = trialMachine(armSmmuV3);
  const vm = new Vm(kernel);
  const device = vm.pass(0);
  const parent = vm.parent(device);
  const viommu = vm.rfcViommu(device, parent);
  vm.assign(device, viommu, IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID, BigInt(SID));
  const [before, after] = [vm.guest.page(), vm.guest.page()];
  vm.guest.write(before, 'old');
  vm.guest.write(after, 'new');
  const tables = new GuestTables(vm.guest);
  for (const iova of [FIRST, SECOND]) tables.map(iova, before);
  const cd = vm.guest.page();
  writeGuestCd(vm.guest, cd, tables, ASID);
  const ste = { type: IOMMU_HWPT_DATA_ARM_SMMUV3, bytes: words(...guestSte(cd, { ats: true })) };
  const hwpt = vm.rfcNested(device, parent, viommu, ste);
  expect(vm.attach(device, hwpt)).toBe(0);

  return {
    kernel,
    vm,
    reads: (iova: bigint) => vm.deviceReads(device, iova, 3),
    /** The guest gives the device other tables, which lead to the new page. */
    switchTables: () => {
      const next = new GuestTables(vm.guest);
      for (const iova of [FIRST, SECOND]) next.map(iova, after);
      writeGuestCd(vm.guest, cd, next, ASID);
    },
    // The two requests of the thread, and the one of Linux.
    toDevice: (...commands: Command[]) =>
      vm.devInvalidate(device, smmuCommands(IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3, ...commands)),
    toIotlb: (...commands: Command[]) =>
      vm.iotlbSync(hwpt, smmuCommands(IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3, ...commands)),
    asOne: (...commands: Command[]) =>
      vm.hwptInvalidate(viommu, smmuCommands(IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3, ...commands)),
  };
}

/** From now on the device reads both pages before each command that the IOMMU consumes. */
function neverRest({ kernel, reads }: Pick<ReturnType<typeof guest>, 'kernel' | 'reads'>): () => number {
  let count = 0;
  let within = false;
  kernel.trace.subscribe((event) => {
    if (event.kind !== 'command' || within) return;
    within = true;
    for (const iova of [FIRST, SECOND]) reads(iova);
    count++;
    within = false;
  });
  return () => count;
}

const withAtcCommands = VENDOR_CASES.filter(({ atcCommand }) => atcCommand !== null);

describe.each(withAtcCommands)('a queue for the IOTLB, then the ATC, of $name', (vendor) => {
  const setUp = () => {
    const kernel = trialMachine(vendor.vendor);
    const vm = new Vm(kernel);
    const device = vm.pass(0);
    const parent = vm.parent(device);
    const viommu = vm.rfcViommu(device, parent);
    vm.name(device, viommu, vendor.idType, BigInt(SID));
    const stage1 = vendor.stage1(vm.guest);
    const hwpt = vm.rfcNested(device, parent, viommu, stage1.nested);
    expect(vm.attach(device, hwpt)).toBe(0);
    const [before, after] = [vm.guest.page(), vm.guest.page()];
    vm.guest.write(before, 'old');
    vm.guest.write(after, 'new');
    for (const iova of [FIRST, SECOND]) stage1.map(iova, before);
    const reads = (iova: bigint) => vm.deviceReads(device, iova, 3);
    const remap = () => stage1.map(FIRST, after);
    return { kernel, vm, device, viommu, hwpt, reads, remap };
  };
  const iotlb = vendor.iotlbCommand(FIRST);
  const atc = vendor.atcCommand!(BigInt(SID), FIRST);

  it('sent by two requests, the ATC’s first, leaves a stale translation where ATCs are filled from the IOTLB', () => {
    const { vm, device, hwpt, reads, remap } = setUp();
    expect(reads(FIRST)).toBe('old');
    remap();
    expect(vm.devInvalidate(device, atc)).toEqual([0, 1]);
    // The ATC is empty, and asks an IOMMU whose IOTLB is not.
    const filled = vendor.atcFilledFrom === 'iotlb' ? 'old' : 'new';
    expect(reads(FIRST)).toBe(filled);
    expect(vm.iotlbSync(hwpt, iotlb)).toEqual([0, 1]);
    expect(reads(FIRST)).toBe(filled);
  });

  it('sent as one request does not, even where the device reads between any two commands', () => {
    const all = setUp();
    expect(all.reads(FIRST)).toBe('old');
    all.remap();
    const readings = neverRest(all);
    const both = { ...iotlb, bytes: Uint8Array.of(...iotlb.bytes, ...atc.bytes) };
    expect(all.vm.hwptInvalidate(all.viommu, both)).toEqual([0, 2]);
    // And before what waits for them.
    expect(readings()).toBe(3);
    expect(all.reads(FIRST)).toBe('new');
  });
});

describe('a queue of CMD_CFGI_CD, CMD_TLBI and CMD_ATC_INV', () => {
  const CFGI_CD = guestCommand.cfgiCd(SID);
  const TLBI = guestCommand.tlbiAsid(ASID);
  const ATC_INV = guestCommand.atcInv(SID);

  it.each(['device', 'iotlb'] as const)(
    'sent by two requests leaves a stale translation, also where the one for the %s comes first',
    (first) => {
      const { reads, switchTables, toDevice, toIotlb } = guest();
      expect(reads(FIRST)).toBe('old');
      switchTables();
      const requests = [
        () => expect(toDevice(CFGI_CD, ATC_INV)).toEqual([0, 2]),
        () => expect(toIotlb(TLBI)).toEqual([0, 1]),
      ];
      if (first === 'iotlb') requests.reverse();
      requests[0]!();
      for (const iova of [FIRST, SECOND]) reads(iova);
      requests[1]!();
      expect([FIRST, SECOND].map(reads)).toContain('old');
    },
  );

  it('sent as one request does not', () => {
    const all = guest();
    expect(all.reads(FIRST)).toBe('old');
    all.switchTables();
    const readings = neverRest(all);
    expect(all.asOne(CFGI_CD, TLBI, ATC_INV)).toEqual([0, 3]);
    expect(readings()).toBe(4);
    expect([FIRST, SECOND].map(all.reads)).toEqual(['new', 'new']);
  });
});

describe('a queue with a command that is refused', () => {
  const [BEFORE, BEHIND] = [guestCommand.tlbiVa(ASID, FIRST), guestCommand.tlbiVa(ASID, SECOND)];
  // There is no such device, and no CMD_ATC_INV of this size.
  const REFUSED = guestCommand.atcInv(SID + 1, 0n, 60n);

  it('sent by two requests has commands behind it carried out: no CONS says that', () => {
    const { toDevice, toIotlb } = guest();
    expect(toIotlb(BEFORE, BEHIND)).toEqual([0, 2]);
    expect(toDevice(REFUSED)).toEqual([EIO, 0]);
  });

  it('sent as one request stops there, and tells where', () => {
    const { asOne } = guest();
    expect(asOne(BEFORE, REFUSED, BEHIND)).toEqual([EIO, 1]);
  });
});
