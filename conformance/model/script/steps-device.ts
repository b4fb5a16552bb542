import type { Device } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { Script, StructWriter, type Reference } from './script.ts';
import { send, someIova, someOffset, testCommand, type Step } from './step.ts';

// Steps on devices and their domains.

const PAGE = 4096n;
const PASIDS = [0, 1, 1, 2, 3, 1024, 1024, 1024, (1 << 20) - 1, 1 << 20, 0xffff_ffff];
const PT_KINDS = ['ioas', 'hwpt-paging', 'hwpt-nested'] as const;

function mockDomain(script: Script, dice: Dice, slot: number): void {
  if (script.objects(slot, 'device').length > 12) return;
  const struct = testCommand(dice.once(3) ? 2 : 12)
    .reference(8, script.reference(dice, slot, ...(dice.once(3) ? PT_KINDS : (['ioas'] as const))))
    .u32(
      28,
      dice.weighted([
        [6, 4],
        [3, 0],
        [2, 1],
        [1, 5],
        [1, 2],
      ]),
    );
  send(script, dice, slot, 0xa0, struct, [
    [16, 'selftest'],
    [20, 'hwpt-paging'],
    [24, 'device'],
  ]);
}

/** Where a new domain comes from: bytes for its data, if there are some. */
function domainData(script: Script, dice: Dice, struct: StructWriter, nested: boolean): void {
  const buffer = dice.below(8);
  const iotlb = dice.pick([0xbadbeef, 5, 0]);
  const pagetable = nested
    ? 0
    : dice.weighted([
        [6, 1],
        [3, 0],
        [1, 2],
      ]);
  const data = new StructWriter(16).u32(0, iotlb).u32(4, pagetable);
  if (dice.once(16)) data.u32(8, 1);
  script.add(`A ${buffer} ${data.line(0, 0).split(' ')[3]}`);
  struct
    .u32(24, dice.once(24) ? dice.pick([1, 2, 3]) : 0xdead)
    .u32(
      28,
      dice.weighted([
        [12, 8],
        [2, 4],
        [1, 3],
        [1, 12],
        [1, 0],
        [1, 16],
      ]),
    )
    .buffer(32, buffer);
  if (dice.once(48)) struct.u64(32, dice.u64());
}

function hwptAlloc(script: Script, dice: Dice, slot: number): void {
  const nested = dice.once(2);
  const kinds = nested ? (['hwpt-paging', 'viommu', 'viommu'] as const) : (['ioas'] as const);
  const flags = nested
    ? dice.weighted([
        [6, 0],
        [3, 8],
        [3, 4],
        [2, 12],
        [1, 1],
      ])
    : dice.weighted([
        [4, 0],
        [6, 1],
        [4, 2],
        [3, 3],
        [3, 8],
        [3, 9],
        [2, 4],
        [2, 12],
        [1, 5],
        [1, 16],
        [1, 11],
      ]);
  const struct = new StructWriter(48)
    .u32(4, flags)
    .reference(8, script.reference(dice, slot, 'device'))
    .reference(12, script.reference(dice, slot, ...kinds));
  if ((flags & 4) !== 0 || dice.once(8)) struct.reference(40, script.reference(dice, slot, 'fault'));
  if (nested || dice.once(4)) domainData(script, dice, struct, nested);
  send(script, dice, slot, 0x89, struct, [[16, nested ? 'hwpt-nested' : 'hwpt-paging']]);
}

function hwInfo(script: Script, dice: Dice, slot: number): void {
  const buffer = dice.below(8);
  const struct = new StructWriter(40)
    .u32(
      4,
      dice.weighted([
        [6, 0],
        [3, 1],
        [1, 2],
      ]),
    )
    .reference(8, script.reference(dice, slot, 'device'))
    .u32(
      12,
      dice.weighted([
        [6, 8],
        [2, 0],
        [2, 4],
        [2, 16],
        [1, 300],
      ]),
    )
    .buffer(16, buffer)
    .u32(
      24,
      dice.weighted([
        [3, 0],
        [3, 0xfeedbeef],
        [1, 1],
      ]),
    );
  if (dice.once(32)) struct.u64(16, dice.u64());
  send(script, dice, slot, 0x8a, struct);
  script.add(`O ${buffer} 32`);
}

function mockReplace(script: Script, dice: Dice, slot: number): void {
  const struct = testCommand(10)
    .reference(8, script.reference(dice, slot, 'selftest'))
    .reference(16, script.reference(dice, slot, ...PT_KINDS));
  send(script, dice, slot, 0xa0, struct);
}

/** A device that can use PASIDs, on a domain that allows them. */
function pasidDevice(script: Script, dice: Dice, slot: number): Reference {
  const ready = (): number[] =>
    script.liveWhere(slot, 'selftest', ({ device }) => {
      const rid = device.attached.get(0);
      return device.mock.maxPasids > 1 && (rid === undefined || rid.hwpt.pasidCompat);
    });
  if (dice.once(6)) return script.reference(dice, slot, 'selftest');
  if (ready().length === 0) {
    const selftest = script.reference(dice, slot, 'selftest');
    const hwpt = pasidHwpt(script, dice, slot);
    script.ioctl(slot, 0xa0, testCommand(10).reference(8, selftest).reference(16, hwpt));
  }
  const devices = ready();
  return devices.length === 0 ? script.reference(dice, slot, 'selftest') : { variable: dice.pick(devices) };
}

/** A domain that PASIDs can use. */
function pasidHwpt(script: Script, dice: Dice, slot: number): Reference {
  const ready = (): number[] => [
    ...script.liveWhere(slot, 'hwpt-paging', ({ pasidCompat }) => pasidCompat),
    ...script.liveWhere(slot, 'hwpt-nested', ({ pasidCompat }) => pasidCompat),
  ];
  if (dice.once(6)) return script.reference(dice, slot, 'hwpt-paging', 'hwpt-nested', 'ioas');
  if (ready().length < 2) {
    const struct = new StructWriter(48)
      .u32(4, dice.pick([8, 9, 10]))
      .reference(8, script.reference(dice, slot, 'device'))
      .reference(12, script.reference(dice, slot, 'ioas'));
    script.ioctl(slot, 0x89, struct, [[16, 'hwpt-paging']]);
  }
  const hwpts = ready();
  return hwpts.length === 0 ? script.reference(dice, slot, 'hwpt-paging') : { variable: dice.pick(hwpts) };
}

function pasidAttach(script: Script, dice: Dice, slot: number): void {
  const replace = dice.once(2);
  const device = pasidDevice(script, dice, slot);
  const attached = attachedPasid(dice, deviceOf(script, slot, device));
  const struct = testCommand(replace ? 19 : 18)
    .reference(8, device)
    .u32(16, replace ? attached : dice.pick(PASIDS))
    .reference(20, pasidHwpt(script, dice, slot));
  send(script, dice, slot, 0xa0, struct);
}

function attachedPasid(dice: Dice, device: Device | null): number {
  const attached = [...(device?.attached.keys() ?? [])];
  return attached.length > 0 && !dice.once(4) ? dice.pick(attached) : dice.pick(PASIDS);
}

function deviceOf(script: Script, slot: number, reference: Reference): Device | null {
  return script.resolve(slot, reference, 'selftest')?.device ?? null;
}

function pasidDetach(script: Script, dice: Dice, slot: number): void {
  const reference = script.reference(dice, slot, 'selftest');
  const pasid = attachedPasid(dice, deviceOf(script, slot, reference));
  send(script, dice, slot, 0xa0, testCommand(20).reference(8, reference).u32(16, pasid));
}

function pasidCheck(script: Script, dice: Dice, slot: number): void {
  const reference = script.reference(dice, slot, 'selftest');
  const device = deviceOf(script, slot, reference);
  const pasid = attachedPasid(dice, device);
  const struct = testCommand(21).reference(8, reference).u32(16, pasid);
  const hwpt = device?.attached.get(pasid)?.hwpt;
  if (hwpt !== undefined && !dice.once(3)) struct.u32(20, hwpt.id);
  else if (!dice.once(3)) struct.reference(20, script.reference(dice, slot, 'hwpt-paging', 'hwpt-nested'));
  send(script, dice, slot, 0xa0, struct);
}

function checkMap(script: Script, dice: Dice, slot: number): void {
  const reference = script.reference(dice, slot, 'hwpt-paging');
  const ioas = script.resolve(slot, reference, 'hwpt-paging')?.ioas ?? null;
  const struct = testCommand(3).reference(8, reference);
  const areas = ioas?.iopt.areas.filter((area) => area.pages.kind === 'user') ?? [];
  if (areas.length > 0 && !dice.once(4)) {
    const area = dice.pick(areas);
    const skip = dice.once(2) ? 0n : BigInt(dice.below(3)) * 2048n;
    const length = dice.once(3) ? 4096n : area.last - area.iova + 1n - skip;
    struct
      .u64(16, area.iova + skip)
      .u64(24, length > 0n ? length : 2048n)
      .arena(32, BigInt.asUintN(64, area.pages.start + area.startByte + skip - 0x2000_0000_0000n));
  } else {
    struct
      .u64(16, someIova(dice, ioas))
      .u64(24, PAGE * BigInt(dice.below(4)))
      .arena(32, someOffset(dice));
  }
  send(script, dice, slot, 0xa0, struct);
}

/** How often the first page of the arena's window is pinned, as the model has it. */
function pins(script: Script, offset: bigint): number {
  let count = 0;
  const frame = script.model.machine.memory.page(0x2000_0000_0000n + offset);
  const pages = new Set(
    [...script.model.machine.contexts]
      .flatMap((context) => context.objects)
      .flatMap((object) => (object.type === 'ioas' ? object.iopt.areas.map((area) => area.pages) : [])),
  );
  for (const each of pages) for (const pinned of each.pinned.values()) if (pinned === frame) count++;
  return count;
}

function checkRefs(script: Script, dice: Dice, slot: number): void {
  const offset = BigInt(dice.below(64)) * PAGE;
  const struct = testCommand(4)
    .u64(16, PAGE * (dice.once(8) ? 2n : 1n))
    .arena(24, offset);
  let refs = 0;
  try {
    refs = pins(script, offset);
  } catch {
    // The page is not mapped any more.
  }
  send(script, dice, slot, 0xa0, struct.u32(32, refs + (dice.once(8) ? 1 : 0)));
}

export const DEVICE_STEPS: readonly (readonly [number, string, Step])[] = [
  [30, 'mock-domain', mockDomain],
  [60, 'hwpt-alloc', hwptAlloc],
  [8, 'hw-info', hwInfo],
  [30, 'mock-replace', mockReplace],
  [26, 'pasid-attach', pasidAttach],
  [12, 'pasid-detach', pasidDetach],
  [10, 'pasid-check', pasidCheck],
  [24, 'check-map', checkMap],
  [12, 'check-refs', checkRefs],
];
