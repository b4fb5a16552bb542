import { IommufdContext } from '@viommu/core/iommufd/context';
import { Access } from '@viommu/core/iommufd/ioas/access';
import { IommufdDevice } from '@viommu/core/iommufd/device/device';
import { FaultQueue } from '@viommu/core/iommufd/eventq/fault-queue';
import { HwQueue } from '@viommu/core/iommufd/viommu/hw-queue';
import { HwptNested, HwptPaging } from '@viommu/core/iommufd/hwpt/hwpt';
import { Ioas as ViommuIoas } from '@viommu/core/iommufd/ioas/ioas';
import type { IommufdObject } from '@viommu/core/iommufd/objects';
import { SelftestDevice } from '@viommu/core/iommufd/selftest/device';
import { Veventq } from '@viommu/core/iommufd/eventq/veventq';
import { Vdevice, Viommu } from '@viommu/core/iommufd/viommu/viommu';
import { MockDevice } from '@viommu/core/iommu/mock/device';
import { MockNestedDomain, MockPagingDomain } from '@viommu/core/iommu/mock/domain';
import type { Kernel } from '@viommu/core/machine/kernel';
import type { SimulatedProcess } from '@viommu/core/memory/simulated-process';
import type { Context, Machine, Obj } from './iommufd/context.ts';
import { holes, type Iopt } from './iommufd/iopt.ts';
import { U64_MAX } from './iommufd/memory.ts';
import type { Pages } from './iommufd/pages.ts';

// What a program cannot ask for in one call: the objects, their users, what is mapped in which pages, what is pinned.
// Both sides print it in the same words.

const DESCRIPTORS_SEEN = 64;

function span(start: bigint, last: bigint): string {
  return `${start.toString(16)}-${last.toString(16)}`;
}

/** A domain is printed in runs of entries of one size that follow one another and are all dirty or all clean. */
function entries(list: Iterable<{ iova: bigint; size: bigint; dirty: boolean }>): string {
  const runs: { iova: bigint; end: bigint; size: bigint; dirty: boolean }[] = [];
  for (const { iova, size, dirty } of list) {
    const run = runs.at(-1);
    if (run !== undefined && run.end === iova && run.size === size && run.dirty === dirty) run.end += size;
    else runs.push({ iova, end: iova + size, size, dirty });
  }
  return runs
    .map((run) => `${span(run.iova, run.end - 1n)}/${run.size.toString(16)}${run.dirty ? '*' : ''}`)
    .join(' ');
}

// viommu

function viommuIopt({ iopt }: ViommuIoas): string {
  const areas = [...iopt.areas].map(
    (area) =>
      `${span(area.start, area.last)} prot=${area.prot & 3} access=${area.accesses} locks=${area.locks}` +
      ` page=${area.firstIndex}+${area.pageOffset} pinned=${area.pages!.npinned}`,
  );
  const reserved = [...iopt.reserved.holes(0n, U64_MAX)].map(({ start, last }) => span(start, last));
  const allowed = [...iopt.allowed].map(({ start, last }) => span(start, last));
  return (
    `align=${iopt.iovaAlignment} small=${iopt.disableLargePages} domains=${iopt.domains.length}` +
    ` accesses=${iopt.accesses.size} free=[${reserved}] allowed=[${allowed}] areas=[${areas.join('; ')}]`
  );
}

function* viommuEntries(
  hwpt: HwptPaging,
  domain: MockPagingDomain,
): Generator<{
  iova: bigint;
  size: bigint;
  dirty: boolean;
}> {
  if (hwpt.ioas.iopt.areas.size === 0 && !domain.table.empty) yield { iova: -1n, size: 0n, dirty: false };
  for (const area of hwpt.ioas.iopt.areas) {
    for (let at = area.start; at <= area.last;) {
      const entry = domain.table.entryAt(at);
      if (entry !== null) yield { iova: entry.iova, size: entry.length, dirty: entry.dirty };
      at = entry === null ? at + 2048n - (at % 2048n) : entry.iova + entry.length;
      if (entry === null && area.pages!.npinned === 0) break;
    }
  }
}

function viommuHwpt(hwpt: HwptPaging | HwptNested): string {
  const common = `pasid=${hwpt.pasidCompat} fault=${hwpt.fault?.id ?? 0}`;
  if (hwpt instanceof HwptNested)
    return `${common} on=${(hwpt.viommu ?? hwpt.parent).id} iotlb=${(hwpt.domain as MockNestedDomain).iotlb}`;
  const domain = hwpt.domain as MockPagingDomain;
  return (
    `${common} ioas=${hwpt.ioas.id} parent=${hwpt.nestParent} auto=${hwpt.autoDomain}` +
    ` track=${domain.dirtyTracking} dirty=${domain.dirtyOps !== null} [${entries(viommuEntries(hwpt, domain))}]`
  );
}

function viommuDevice(idev: IommufdDevice): string {
  const attached = [...idev.group.attached].map(([pasid, { hwpt }]) => `${pasid}:${hwpt.id}`);
  return `attached=${attached} vdevice=${idev.vdevice?.id ?? 0} cache=${(idev.device as MockDevice).cache}`;
}

function viommuObject(object: IommufdObject): string {
  if (object instanceof ViommuIoas) return viommuIopt(object);
  if (object instanceof HwptPaging || object instanceof HwptNested) return viommuHwpt(object);
  if (object instanceof IommufdDevice) return viommuDevice(object);
  if (object instanceof SelftestDevice) return `device=${object.idev.id}`;
  if (object instanceof Access) return `ioas=${object.ioas?.id ?? 0}`;
  if (object instanceof FaultQueue) return `deliver=${object.deliverable.length}`;
  if (object instanceof Viommu) {
    const vdevices = [...object.vdevices.values()].map(({ virtualId, id }) => `${virtualId}:${id}`);
    return `hwpt=${object.hwpt.id} vdevices=${vdevices.toSorted()} veventqs=${object.veventqs.map(({ id }) => id)}`;
  }
  if (object instanceof Vdevice)
    return `viommu=${object.viommu.id} device=${object.idev.id} virt=${object.virtualId}`;
  if (object instanceof Veventq)
    return `events=${[...object.events].map(({ sequence, data }) => `${sequence}${data === null ? '!' : ''}`)}`;
  if (object instanceof HwQueue) return `base=${object.core.baseAddress.toString(16)}`;
  throw new Error(`what is ${object.type}?`);
}

function viommuContext(context: IommufdContext): string[] {
  const objects = context.objects
    .ascending()
    .map((object) => `${object.id} ${object.type} users=${object.users} ${viommuObject(object)}`);
  return [`vfio=${context.vfioIoas?.id ?? 0} mode=${context.accountMode === 2}`, ...objects];
}

/** What viommu has. */
export function viommuState(kernel: Kernel, process: SimulatedProcess): string[] {
  const lines = [`pinned ${kernel.physical.frames.pinned}`];
  for (let fd = 0; fd < DESCRIPTORS_SEEN; fd++) {
    const file = process.file(fd);
    if (file === null) continue;
    lines.push(`fd ${fd}`);
    if (file instanceof IommufdContext) lines.push(...viommuContext(file));
  }
  return lines;
}

/** What must be as it was after a call that failed: all of the state, and what the machine has given out. */
export function viommuResources(kernel: Kernel, process: SimulatedProcess): string {
  const { physical, locked } = kernel;
  const references: string[] = [];
  for (let fd = 0; fd < DESCRIPTORS_SEEN; fd++) {
    const file = process.file(fd);
    if (file instanceof IommufdContext)
      for (const object of file.objects.ascending())
        if (object instanceof ViommuIoas)
          references.push(
            ...[...object.iopt.areas].map(
              (area) => `${area.pages!.references}/${area.storageDomain === null}/${area.preventAccess}`,
            ),
            `${object.iopt.reserved.size}`,
          );
    if (file instanceof IommufdContext) references.push(`groups=${file.groups.size}`);
  }
  return [
    ...viommuState(kernel, process),
    `frames ${physical.frames.pinned} chunks ${physical.frames.chunks} ram ${physical.ram.size}`,
    `locked ${locked.of(process.uid)} ${process.memory.lockedPages} ${process.memory.pinnedPages}`,
    references.join(' '),
  ].join('\n');
}

// The model

function modelIopt(iopt: Iopt): string {
  const areas = iopt.areas.map(
    (area) =>
      `${span(area.iova, area.last)} prot=${(area.prot.read ? 1 : 0) | (area.prot.write ? 2 : 0)}` +
      ` access=${area.accesses} locks=${area.locks} page=${area.firstIndex}+${area.pageOffset}` +
      ` pinned=${area.pages.kind === 'dmabuf' ? 0 : area.pages.pinned.size}`,
  );
  const free = holes(iopt.reserved, 0n, U64_MAX).map(({ start, last }) => span(start, last));
  const allowed = iopt.allowed
    .toSorted((a, b) => (a.start < b.start ? -1 : 1))
    .map(({ start, last }) => span(start, last));
  return (
    `align=${iopt.alignment} small=${iopt.smallPages} domains=${iopt.domains.length}` +
    ` accesses=${iopt.accesses.size} free=[${free}] allowed=[${allowed}] areas=[${areas.join('; ')}]`
  );
}

function modelObject(object: Obj): [string, string] {
  switch (object.type) {
    case 'ioas':
      return ['IOAS', modelIopt(object.iopt)];
    case 'hwpt-paging': {
      const { domain, ioas } = object;
      const mapped = ioas.iopt.areas.flatMap((area) => [...domain.entries(area.iova, area.last)]);
      return [
        'HWPT_PAGING',
        `pasid=${object.pasidCompat} fault=${object.fault?.id ?? 0} ioas=${ioas.id} parent=${object.nestParent}` +
          ` auto=${object.auto} track=${domain.tracking} dirty=${domain.dirtyOps} [${entries(mapped)}]`,
      ];
    }
    case 'hwpt-nested':
      return [
        'HWPT_NESTED',
        `pasid=${object.pasidCompat} fault=${object.fault?.id ?? 0} on=${(object.viommu ?? object.parent).id}` +
          ` iotlb=${object.iotlb}`,
      ];
    case 'device': {
      const attached = [...object.attached].map(([pasid, { hwpt }]) => `${pasid}:${hwpt.id}`);
      return ['DEVICE', `attached=${attached} vdevice=${object.vdevice?.id ?? 0} cache=${object.mock.cache}`];
    }
    case 'selftest':
      return ['SELFTEST', `device=${object.device.id}`];
    case 'access':
      return ['ACCESS', `ioas=${object.ioas?.id ?? 0}`];
    case 'fault':
      return ['FAULT', `deliver=${object.deliver.length}`];
    case 'viommu': {
      const vdevices = [...object.vdevices.values()].map(({ virtId, id }) => `${virtId}:${id}`);
      return [
        'VIOMMU',
        `hwpt=${object.hwpt.id} vdevices=${vdevices.toSorted()} veventqs=${object.veventqs.map(({ id }) => id)}`,
      ];
    }
    case 'vdevice':
      return ['VDEVICE', `viommu=${object.viommu.id} device=${object.device.id} virt=${object.virtId}`];
    case 'veventq':
      return [
        'VEVENTQ',
        `events=${object.deliver.map(({ sequence, data }) => `${sequence}${data === null ? '!' : ''}`)}`,
      ];
    case 'hw-queue':
      return ['HW_QUEUE', `base=${object.base.toString(16)}`];
  }
}

function modelContext(context: Context): string[] {
  const objects = context.objects.map((object) => {
    const [type, text] = modelObject(object);
    return `${object.id} ${type} users=${object.users} ${text}`;
  });
  return [`vfio=${context.vfioIoas?.id ?? 0} mode=${context.accountMm}`, ...objects];
}

function modelPinned(machine: Machine): number {
  const all = new Set<Pages>();
  for (const context of machine.contexts)
    for (const object of context.objects)
      if (object.type === 'ioas') for (const area of object.iopt.areas) all.add(area.pages);
  return [...all].reduce((sum, { kind, pinned }) => (kind === 'dmabuf' ? sum : sum + pinned.size), 0);
}

/** What the model has, in the words of {@link viommuState}. */
export function modelState(machine: Machine): string[] {
  const lines = [`pinned ${modelPinned(machine)}`];
  for (const [fd, file] of [...machine.descriptors].sort(([a], [b]) => a - b)) {
    if (fd >= DESCRIPTORS_SEEN) continue;
    lines.push(`fd ${fd}`);
    if (file.kind === 'iommufd') lines.push(...modelContext(file));
  }
  return lines;
}
