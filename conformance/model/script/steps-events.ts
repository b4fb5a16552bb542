import type { Context } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { Script, StructWriter, type Kind } from './script.ts';
import { send, someIova, someLength, testCommand, type Step } from './step.ts';

// Steps on virtual IOMMUs and event queues, and those that end things.

const PAGE = 4096n;
const FDS: readonly Kind[] = ['access-fd', 'fault-fd', 'veventq-fd', 'dmabuf-fd'];

function viommuAlloc(script: Script, dice: Dice, slot: number): void {
  const parents = script.liveWhere(slot, 'hwpt-paging', ({ nestParent }) => nestParent);
  const struct = new StructWriter(40)
    .u32(8, dice.once(16) ? dice.pick([0, 1, 2]) : 0xdeadbeef)
    .reference(12, script.reference(dice, slot, 'device'));
  if (parents.length > 0 && !dice.once(8)) struct.reference(16, { variable: dice.pick(parents) });
  else struct.reference(16, script.reference(dice, slot, 'hwpt-paging'));
  const buffer = dice.below(8);
  if (dice.once(3)) {
    script.add(`A ${buffer} ${dice.u32().toString(16).padStart(8, '0')}`);
    struct
      .u32(
        24,
        dice.weighted([
          [6, 24],
          [2, 8],
          [1, 7],
          [1, 16],
          [1, 32],
        ]),
      )
      .buffer(32, buffer);
    if (dice.once(24)) struct.u64(32, dice.u64());
  }
  send(script, dice, slot, 0x90, struct, [[20, 'viommu']]);
  script.add(`O ${buffer} 32`);
}

function vdeviceAlloc(script: Script, dice: Dice, slot: number): void {
  const struct = new StructWriter(24)
    .reference(4, script.reference(dice, slot, 'viommu'))
    .reference(8, script.reference(dice, slot, 'device'))
    .u64(
      16,
      dice.weighted([
        [8, BigInt(dice.below(4))],
        [4, 0x99n],
        [1, dice.u64()],
      ]),
    );
  send(script, dice, slot, 0x91, struct, [[12, 'vdevice']]);
}

function hwQueueAlloc(script: Script, dice: Dice, slot: number): void {
  const reference = script.reference(dice, slot, 'viommu');
  const ioas = script.resolve(slot, reference, 'viommu')?.hwpt.ioas ?? null;
  const areas = ioas?.iopt.areas.filter((each) => each.prot.read) ?? [];
  const files = areas.filter((each) => each.pages.kind === 'file');
  const area = areas.length === 0 || dice.once(8) ? undefined : dice.pick(files.length === 0 ? areas : files);
  const struct = new StructWriter(40)
    .u32(8, 0)
    .reference(8, reference)
    .u32(12, dice.once(16) ? dice.below(3) : 0xdeadbeef)
    .u32(
      16,
      dice.weighted([
        [6, 0],
        [6, 1],
        [1, 2],
      ]),
    )
    .u64(
      24,
      (area?.iova ?? someIova(dice, ioas)) +
        BigInt(
          dice.weighted([
            [4, 0],
            [1, 16],
            [1, 4096],
          ]),
        ),
    )
    .u64(
      32,
      dice.weighted([
        [6, PAGE],
        [3, 8192n],
        [2, 100n],
        [1, 1n << 60n],
        [1, someLength(dice) & 0xffff_ffffn],
      ]),
    );
  send(script, dice, slot, 0x94, struct, [[20, 'hw-queue']]);
}

function faultAlloc(script: Script, dice: Dice, slot: number): void {
  if (script.live(slot, 'fault-fd').length > 6) return;
  send(script, dice, slot, 0x8e, new StructWriter(16), [
    [8, 'fault'],
    [12, 'fault-fd'],
  ]);
}

function veventqAlloc(script: Script, dice: Dice, slot: number): void {
  const struct = new StructWriter(32)
    .reference(8, script.reference(dice, slot, 'viommu'))
    .u32(
      12,
      dice.weighted([
        [8, 0xbeefbeef],
        [1, 0],
        [1, 1],
      ]),
    )
    .u32(
      16,
      dice.weighted([
        [4, 2],
        [3, 1],
        [2, 4],
        [1, 0],
        [1, 1 << 19],
        [1, (1 << 19) + 1],
      ]),
    );
  send(script, dice, slot, 0x93, struct, [
    [20, 'veventq'],
    [24, 'veventq-fd'],
  ]);
}

function triggerFault(script: Script, dice: Dice, slot: number): void {
  const reference = script.reference(dice, slot, 'device');
  const attached = [...(script.resolve(slot, reference, 'device')?.attached.keys() ?? [])];
  const struct = testCommand(15)
    .reference(16, reference)
    .u32(20, attached.length > 0 && !dice.once(4) ? dice.pick(attached) : dice.below(3))
    .u32(24, dice.u32())
    .u32(28, dice.below(16))
    .u64(32, dice.u64());
  send(script, dice, slot, 0xa0, struct);
}

function triggerVevent(script: Script, dice: Dice, slot: number): void {
  const nested = (): number[] =>
    script.liveWhere(slot, 'device', ({ mock }) => (mock.viommu?.veventqs.length ?? 0) > 0);
  if (nested().length === 0) {
    script.reference(dice, slot, 'hwpt-nested');
    script.reference(dice, slot, 'veventq');
  }
  const devices = nested();
  const device =
    devices.length === 0 || dice.once(4)
      ? script.reference(dice, slot, 'device')
      : { variable: dice.pick(devices) };
  for (let i = dice.below(4); i >= 0; i--)
    send(script, dice, slot, 0xa0, testCommand(17).reference(16, device));
}

function readEvents(script: Script, dice: Dice, slot: number): void {
  const queues = [...script.live(slot, 'fault-fd'), ...script.live(slot, 'veventq-fd')];
  if (queues.length === 0) return;
  const count = dice.pick([40, 80, 120, 0, 8, 12, 20, 24, 36, 7, 41, 1000]);
  script.add(`R ${dice.pick(queues)} ${count}`);
}

function respond(script: Script, dice: Dice, slot: number): void {
  const queues = script.live(slot, 'fault-fd');
  if (queues.length === 0) return;
  const responses = Array.from({ length: 1 + dice.below(3) }, () => [
    1 + dice.below(3),
    dice.pick([0, 0, 0, 1, 1, 2]),
  ]);
  const bytes = responses.flat().map((word) => `0${word}000000`);
  script.add(`T ${dice.pick(queues)} ${bytes.join('')}${dice.once(16) ? '00' : ''}`);
}

function invalidate(script: Script, dice: Dice, slot: number): void {
  const onViommu = dice.once(2);
  const reference = script.reference(dice, slot, onViommu ? 'viommu' : 'hwpt-nested');
  const virtIds = [...(script.resolve(slot, reference, 'viommu')?.vdevices.keys() ?? [1n])];
  const count = dice.below(4);
  const length = onViommu ? 12 : 8;
  const entries = new StructWriter(64);
  for (let i = 0; i < 4; i++) {
    const id = dice.once(12) ? 4 : dice.below(4);
    const virtId =
      dice.once(8) || virtIds.length === 0 ? dice.u32() : Number(BigInt.asUintN(32, dice.pick(virtIds)));
    entries.u32(
      i * length,
      dice.weighted([
        [8, 0],
        [3, 1],
        [1, 2],
      ]),
    );
    entries.u32(i * length + 4, onViommu ? virtId : id);
    if (onViommu) entries.u32(i * length + 8, id);
  }
  const buffer = dice.below(8);
  script.add(`A ${buffer} ${entries.line(0, 0).split(' ')[3]}`);
  const struct = new StructWriter(32)
    .reference(4, reference)
    .buffer(8, buffer)
    .u32(
      16,
      dice.weighted([
        [12, 0xdeadbeef],
        [1, 0xdadbeef],
        [1, 0],
      ]),
    )
    .u32(
      20,
      dice.weighted([
        [16, length],
        [1, 0],
        [1, length - 4],
        [1, length + 4],
        [1, 4096],
        [1, 4097],
      ]),
    )
    .u32(24, dice.once(24) ? dice.pick([(1 << 19) + 1, 0xffff_ffff]) : count);
  if (dice.once(24)) struct.u64(8, dice.u64());
  send(script, dice, slot, 0x8d, struct);
}

function checkCache(script: Script, dice: Dice, slot: number): void {
  const nested = dice.once(2);
  const reference = script.reference(dice, slot, nested ? 'hwpt-nested' : 'device');
  const id = dice.below(4);
  const value = nested
    ? script.resolve(slot, reference, 'hwpt-nested')?.iotlb[id]
    : script.resolve(slot, reference, 'device')?.mock.cache[id];
  const struct = testCommand(nested ? 14 : 16)
    .reference(8, reference)
    .u32(16, dice.once(16) ? 4 : id)
    .u32(20, dice.once(8) ? 1 : (value ?? 0));
  send(script, dice, slot, 0xa0, struct);
}

// Ends

/** Destroying a mock device with PASIDs attached is a bug of the program that Linux only warns about. */
function detachPasids(script: Script, slot: number, selftestId: number): void {
  const selftest = script.objects(slot, 'selftest').find(({ id }) => id === selftestId);
  for (const pasid of selftest?.device.attached.keys() ?? [])
    if (pasid !== 0) script.ioctl(slot, 0xa0, testCommand(20).u32(8, selftestId).u32(16, pasid));
}

function destroy(script: Script, dice: Dice, slot: number): void {
  const kinds: Kind[] = dice.weighted([
    [6, ['ioas', 'hwpt-paging', 'hwpt-nested', 'viommu', 'vdevice', 'hw-queue', 'veventq', 'fault']],
    [2, ['selftest']],
    [1, ['device', 'access', 'ioas']],
    [3, ['hwpt-paging', 'hwpt-nested']],
    [2, ['vdevice', 'hw-queue', 'viommu']],
  ]);
  const reference = script.reference(dice, slot, ...kinds);
  const id = 'value' in reference ? reference.value : script.value(reference.variable);
  detachPasids(script, slot, id);
  script.ioctl(slot, 0x80, new StructWriter(8).reference(4, reference));
}

function closeFd(script: Script, dice: Dice, slot: number): void {
  const open = FDS.flatMap((kind) => script.live(slot, kind));
  if (open.length > 0) script.add(`Z ${dice.pick(open)}`);
}

/** Closes a context or opens another one. */
function reopen(script: Script, _dice: Dice, slot: number): void {
  if (script.context(slot) === null) {
    script.add(`C ${slot}`);
    return;
  }
  for (const { id } of script.objects(slot, 'selftest')) detachPasids(script, slot, id);
  script.add(`X ${slot}`);
}

// Whatever else a program can do

function memory(script: Script, dice: Dice): void {
  // Where nothing is ever unmapped.
  const offset = (BigInt(dice.below(28)) * PAGE).toString(16);
  switch (dice.below(4)) {
    case 0:
      return script.add(`W ${offset} ${(dice.below(3) * 4096 + 100).toString(16)} ${dice.below(256)}`);
    case 1:
      return script.add(`D ${offset} 2000`);
    default:
      return script.add(`M ${dice.below(3)} ${dice.pick(['10000', '8000', '1800', '200000', '1000', '0'])}`);
  }
}

function unmapMemory(script: Script, dice: Dice): void {
  if (!dice.once(8)) return;
  script.add(`U ${((40 + dice.below(24)) * 4096).toString(16)} ${((1 + dice.below(4)) * 4096).toString(16)}`);
}

function wild(script: Script, dice: Dice, slot: number): void {
  const command = dice.once(3) ? dice.below(256) : 0x80 + dice.below(0x24);
  if (dice.once(3)) {
    script.add(`V ${slot} ${command.toString(16)} ${dice.pick([0, 1, 4096, 0x3ffffffff000])}`);
    return;
  }
  const struct = new StructWriter(dice.pick([8, 16, 24, 40, 48, 72]));
  for (let i = 0; i < 3; i++) struct.spoil(dice);
  if (dice.once(2)) struct.reference(4, script.reference(dice, slot, 'ioas', 'device', 'hwpt-paging'));
  script.ioctl(slot, command, struct);
}

function memoryLimit(script: Script, dice: Dice, slot: number): void {
  script.ioctl(slot, 0xa0, testCommand(9).u32(16, dice.pick([65536, 4096, 12, 11, 0, 100])));
}

function dmabuf(script: Script, dice: Dice, slot: number): void {
  const files = [...script.model.machine.descriptors].filter(([, file]) => file.kind === 'dmabuf');
  if (files.length > 0 && dice.once(2)) {
    const fd = dice.once(8) ? dice.below(8) : dice.pick(files)[0];
    script.ioctl(slot, 0xa0, testCommand(23).u32(16, fd).u32(20, dice.below(2)), [[16, 'dmabuf-fd']]);
    return;
  }
  if (files.length > 4) return;
  const length = dice.pick([4096, 16384, 1, 0, 65536, 2097152, 2097153, 0xffff_ffff]);
  script.ioctl(slot, 0xa0, testCommand(22).u32(16, length).u32(20, 0o2000000));
}

export function lastSteps(script: Script): void {
  for (const slot of [0, 1]) {
    const context: Context | null = script.context(slot);
    if (context === null) continue;
    for (const { id } of script.objects(slot, 'selftest')) detachPasids(script, slot, id);
  }
}

export const EVENT_STEPS: readonly (readonly [number, string, Step])[] = [
  [36, 'viommu-alloc', viommuAlloc],
  [30, 'vdevice-alloc', vdeviceAlloc],
  [24, 'hw-queue-alloc', hwQueueAlloc],
  [14, 'fault-alloc', faultAlloc],
  [20, 'veventq-alloc', veventqAlloc],
  [30, 'trigger-fault', triggerFault],
  [24, 'trigger-vevent', triggerVevent],
  [28, 'read-events', readEvents],
  [12, 'respond', respond],
  [26, 'invalidate', invalidate],
  [16, 'check-cache', checkCache],
  [44, 'destroy', destroy],
  [14, 'close-fd', closeFd],
  [3, 'reopen', reopen],
  [14, 'memory', memory],
  [4, 'unmap-memory', unmapMemory],
  [10, 'wild', wild],
  [2, 'memory-limit', memoryLimit],
  [10, 'dmabuf', dmabuf],
];
