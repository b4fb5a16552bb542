import type { Dice } from './dice.ts';
import { Script, StructWriter, type Kind, type Reference } from './script.ts';

// Makes what a step needs, as a program would that knows what it does.

const TEST = 0xa0;
const FIXED_READ_WRITE = 7;
const NEST_PARENT = 1;
const DIRTY_TRACKING = 2;
const PASID = 8;
const DATA_SELFTEST = 0xdead;
const TYPE_SELFTEST = 0xdeadbeef;
const VEVENTQ_SELFTEST = 0xbeefbeef;
const APERTURE = 1n << 24n;
const PAGE = 4096n;

function pick(script: Script, dice: Dice, slot: number, kind: Kind): Reference | null {
  if (script.live(slot, kind).length === 0) make(script, dice, slot, kind);
  const live = script.live(slot, kind);
  return live.length === 0 ? null : { variable: dice.pick(live) };
}

function makeIoas(script: Script, dice: Dice, slot: number): void {
  script.ioctl(slot, 0x81, new StructWriter(12), [[8, 'ioas']]);
  const ioas = { variable: script.live(slot, 'ioas').at(-1) ?? 0 };
  for (let i = dice.below(3); i > 0; i--) {
    const struct = new StructWriter(40)
      .u32(4, FIXED_READ_WRITE)
      .reference(8, ioas)
      .arena(16, BigInt(dice.below(32)) * PAGE)
      .u64(24, BigInt(1 + dice.below(8)) * PAGE)
      .u64(32, APERTURE + BigInt(i * 16) * PAGE);
    script.ioctl(slot, 0x85, struct);
  }
}

function makeDevice(script: Script, dice: Dice, slot: number): void {
  const ioas = pick(script, dice, slot, 'ioas');
  if (ioas === null) return;
  const struct = new StructWriter(72)
    .u32(4, 12)
    .reference(8, ioas)
    .u32(28, dice.once(4) ? 0 : 4);
  script.ioctl(slot, TEST, struct, [
    [16, 'selftest'],
    [20, 'hwpt-paging'],
    [24, 'device'],
  ]);
}

function makeParent(script: Script, dice: Dice, slot: number): void {
  const device = pick(script, dice, slot, 'device');
  const ioas = pick(script, dice, slot, 'ioas');
  if (device === null || ioas === null) return;
  const flags = NEST_PARENT | dice.pick([0, DIRTY_TRACKING, PASID, DIRTY_TRACKING | PASID]);
  const struct = new StructWriter(48).u32(4, flags).reference(8, device).reference(12, ioas);
  script.ioctl(slot, 0x89, struct, [[16, 'hwpt-paging']]);
}

function parents(script: Script, slot: number): number[] {
  return script.liveWhere(slot, 'hwpt-paging', ({ nestParent }) => nestParent);
}

function makeViommu(script: Script, dice: Dice, slot: number): void {
  const device = pick(script, dice, slot, 'device');
  if (parents(script, slot).length === 0) makeParent(script, dice, slot);
  const parent = parents(script, slot);
  if (device === null || parent.length === 0) return;
  const struct = new StructWriter(40)
    .u32(8, TYPE_SELFTEST)
    .reference(12, device)
    .reference(16, { variable: dice.pick(parent) });
  script.ioctl(slot, 0x90, struct, [[20, 'viommu']]);
}

function makeVdevice(script: Script, dice: Dice, slot: number): void {
  const viommu = pick(script, dice, slot, 'viommu');
  const free = script.liveWhere(slot, 'device', ({ vdevice }) => vdevice === null);
  if (viommu === null || free.length === 0) return;
  const struct = new StructWriter(24)
    .reference(4, viommu)
    .reference(8, { variable: dice.pick(free) })
    .u64(16, BigInt(1 + dice.below(64)));
  script.ioctl(slot, 0x91, struct, [[12, 'vdevice']]);
}

/** A nested domain, and the device of its vDEVICE attached to it. */
function makeNested(script: Script, dice: Dice, slot: number): void {
  if (script.live(slot, 'vdevice').length === 0) makeVdevice(script, dice, slot);
  const viommus = script.liveWhere(slot, 'viommu', ({ vdevices }) => vdevices.size > 0);
  const device = pick(script, dice, slot, 'device');
  if (device === null || viommus.length === 0) return;
  const viommu = { variable: dice.pick(viommus) };
  const vdevices = [...(script.resolve(slot, viommu, 'viommu')?.vdevices.values() ?? [])];
  script.add('A 3 efbead0b00000000');
  const fault = dice.once(2) ? pick(script, dice, slot, 'fault') : null;
  const struct = new StructWriter(48)
    .u32(4, (fault === null ? 0 : 4) | (dice.once(2) ? PASID : 0))
    .reference(8, device)
    .reference(12, viommu)
    .u32(24, DATA_SELFTEST)
    .u32(28, 8)
    .buffer(32, 3);
  if (fault !== null) struct.reference(40, fault);
  script.ioctl(slot, 0x89, struct, [[16, 'hwpt-nested']]);
  const nested = script.live(slot, 'hwpt-nested').at(-1);
  const idev = vdevices[0]?.device.id;
  const selftest = script.liveWhere(slot, 'selftest', (each) => each.device.id === idev)[0];
  if (nested === undefined || selftest === undefined) return;
  const attach = new StructWriter(72).u32(4, 10).reference(8, { variable: selftest });
  script.ioctl(slot, TEST, attach.reference(16, { variable: nested }));
}

function makeFault(script: Script, slot: number): void {
  script.ioctl(slot, 0x8e, new StructWriter(16), [
    [8, 'fault'],
    [12, 'fault-fd'],
  ]);
}

function makeVeventq(script: Script, dice: Dice, slot: number): void {
  const viommu = pick(script, dice, slot, 'viommu');
  if (viommu === null) return;
  const struct = new StructWriter(32)
    .reference(8, viommu)
    .u32(12, VEVENTQ_SELFTEST)
    .u32(16, 1 + dice.below(4));
  script.ioctl(slot, 0x93, struct, [
    [20, 'veventq'],
    [24, 'veventq-fd'],
  ]);
}

function makeAccess(script: Script, dice: Dice, slot: number): void {
  const ioas = pick(script, dice, slot, 'ioas');
  if (ioas === null) return;
  const struct = new StructWriter(72).u32(4, 5).reference(8, ioas).u32(20, 1);
  script.ioctl(slot, TEST, struct, [[16, 'access-fd']]);
}

/** Makes an object of a kind and what it needs. */
export function make(script: Script, dice: Dice, slot: number, kind: Kind): void {
  if (script.context(slot) === null) script.add(`C ${slot}`);
  switch (kind) {
    case 'ioas':
      return makeIoas(script, dice, slot);
    case 'device':
    case 'selftest':
      return makeDevice(script, dice, slot);
    case 'hwpt-paging':
      return makeParent(script, dice, slot);
    case 'viommu':
      return makeViommu(script, dice, slot);
    case 'vdevice':
      return makeVdevice(script, dice, slot);
    case 'hwpt-nested':
      return makeNested(script, dice, slot);
    case 'fault':
    case 'fault-fd':
      return makeFault(script, slot);
    case 'veventq':
    case 'veventq-fd':
      return makeVeventq(script, dice, slot);
    case 'access':
    case 'access-fd':
      return makeAccess(script, dice, slot);
    default:
      return;
  }
}
