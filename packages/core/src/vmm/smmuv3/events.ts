import { readField } from '../../base/bit-fields.ts';
import { failed } from '../../base/result.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { IOMMU_VEVENTQ_FLAG_LOST_EVENTS, iommufd_vevent_header } from '../../abi/iommufd.ts';
import { iommu_vevent_arm_smmuv3 } from '../../abi/iommufd-data.ts';
import type { EventQueue } from '../../iommu/arm-smmu-v3/hardware/queues/event-queue.ts';
import type { EventType } from '../../iommu/arm-smmu-v3/hardware/transaction.ts';
import { EVENT_RECORD, EVENT_WORDS } from '../../iommu/arm-smmu-v3/spec/events.ts';
import type { Program } from '../program.ts';

const READ_BYTES = 4096;
const HEADER_BYTES = iommufd_vevent_header.size;

/**
 * Hands the guest what a physical SMMU has recorded of its streams, with the guest's own StreamIDs. False where there was
 * nothing.
 */
export function deliverEvents(program: Program, eventFd: number, events: EventQueue): boolean {
  let any = false;
  while (program.readable(eventFd)) {
    const bytes = program.read(eventFd, READ_BYTES);
    if (failed(bytes) || bytes.length === 0) break;
    any = true;
    for (let at = 0; at < bytes.length;) at = deliver(bytes, at, events);
  }
  return any;
}

function deliver(bytes: Uint8Array, at: number, events: EventQueue): number {
  const { flags } = iommufd_vevent_header.read(bytes, at);
  if ((flags & IOMMU_VEVENTQ_FLAG_LOST_EVENTS) !== 0) {
    events.lost();
    return at + HEADER_BYTES;
  }
  const { evt } = iommu_vevent_arm_smmuv3.read(bytes, at + HEADER_BYTES);
  const words = new Uint32Array(EVENT_WORDS);
  for (const [index, word] of evt.entries()) words.set([lo32(word), hi32(word)], 2 * index);
  events.record({ type: readField(EVENT_RECORD.Type, words) as EventType, words }, false);
  return at + HEADER_BYTES + iommu_vevent_arm_smmuv3.size;
}
