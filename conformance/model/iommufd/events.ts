import { EEXIST, EINVAL, ENOENT, EOPNOTSUPP, ESPIPE, must } from './errno.ts';
import type { Call } from './call.ts';
import type { Attachment, FaultQueue, Veventq, Viommu } from './context.ts';
import type { Memory } from './memory.ts';

// drivers/iommu/iommufd/eventq.c and the mock IOMMU's two ways to make an event.

const FAULT_BYTES = 40;
const RESPONSE_BYTES = 8;
const HEADER_BYTES = 8;
const LOST_EVENTS = 1;
const DEPTH_MAX = 1 << 19;
const TYPE_SELFTEST = 0xbeefbeef;
const PASID_VALID = 1;
const LAST_PAGE = 2;

/** iommufd_fault_alloc(). */
export function faultAlloc(call: Call): void {
  const { context } = call;
  must(call.u32(4) === 0, EOPNOTSUPP);
  context.machine.lowestFree();
  const queue: FaultQueue = context.add({
    type: 'fault',
    kind: 'fault',
    id: 0,
    users: 2,
    context,
    deliver: [],
    responses: new Map(),
  });
  context.files++;
  call.setU32(8, queue.id);
  call.setU32(12, context.machine.open(queue));
  call.respond();
}

/** iommufd_test_trigger_iopf(), iommu_report_device_fault(). Never fails. */
export function triggerFault(call: Call): void {
  const device = call.context.get(call.u32(16), 'device');
  const pasid = call.u32(20);
  let attachment: Attachment | undefined = device.attached.get(pasid);
  if (pasid !== 0 && attachment === undefined) {
    const rid = device.attached.get(0);
    if (rid?.hwpt.type === 'hwpt-nested') attachment = rid;
  }
  attachment?.hwpt.fault?.deliver.push({
    attachment,
    flags: LAST_PAGE | (pasid !== 0 ? PASID_VALID : 0),
    pasid,
    grpid: call.u32(24),
    perm: call.u32(28),
    addr: call.u64(32),
  });
}

/** iommufd_fault_fops_read(). Answers the number of bytes. */
export function readFaults(queue: FaultQueue, memory: Memory, va: bigint, count: number): number {
  must(count % FAULT_BYTES === 0, ESPIPE);
  let done = 0;
  for (; queue.deliver.length > 0; done += FAULT_BYTES) {
    if (FAULT_BYTES > count - done) {
      must(done > 0, EINVAL);
      break;
    }
    let cookie = 1;
    while (queue.responses.has(cookie)) cookie++;
    const fault = queue.deliver[0]!;
    const bytes = new Uint8Array(FAULT_BYTES);
    const view = new DataView(bytes.buffer);
    const words = [fault.flags, fault.attachment.device.id, fault.pasid, fault.grpid, fault.perm, 0];
    words.forEach((word, index) => view.setUint32(index * 4, word, true));
    view.setBigUint64(24, fault.addr, true);
    view.setUint32(36, cookie, true);
    memory.write(va + BigInt(done), bytes);
    queue.deliver.shift();
    queue.responses.set(cookie, fault);
  }
  return done;
}

/** iommufd_fault_fops_write(). */
export function writeResponses(queue: FaultQueue, memory: Memory, va: bigint, count: number): number {
  must(count % RESPONSE_BYTES === 0, ESPIPE);
  let done = 0;
  for (; done < count; done += RESPONSE_BYTES) {
    const bytes = memory.read(va + BigInt(done), RESPONSE_BYTES);
    const view = new DataView(bytes.buffer);
    const known = view.getUint32(4, true) <= 1 && queue.responses.delete(view.getUint32(0, true));
    if (known) continue;
    must(done > 0, EINVAL);
    break;
  }
  return done;
}

/** iommufd_veventq_alloc(). */
export function veventqAlloc(call: Call): void {
  const { context } = call;
  const eventType = call.u32(12);
  const depth = call.u32(16);
  must(call.u32(4) === 0 && call.u32(28) === 0 && eventType !== 0, EOPNOTSUPP);
  must(depth !== 0 && depth <= DEPTH_MAX, EINVAL);
  const viommu = context.get(call.u32(8), 'viommu');
  must(!viommu.veventqs.some((queue) => queue.eventType === eventType), EEXIST);
  context.machine.lowestFree();
  const queue: Veventq = context.add({
    type: 'veventq',
    kind: 'veventq',
    id: 0,
    users: 2,
    context,
    viommu,
    eventType,
    depth,
    sequence: 0,
    deliver: [],
  });
  viommu.veventqs.push(queue);
  viommu.users++;
  context.files++;
  call.setU32(20, queue.id);
  call.setU32(24, context.machine.open(queue));
  call.respond();
}

/** iommufd_test_trigger_vevent(). */
export function triggerVevent(call: Call): void {
  const { mock } = call.context.get(call.u32(16), 'device');
  must(mock.viommu !== null && mock.vdevId !== 0n, ENOENT);
  const data = new Uint8Array(4);
  new DataView(data.buffer).setUint32(0, Number(BigInt.asUintN(32, mock.vdevId)), true);
  report(mock.viommu, TYPE_SELFTEST, data);
}

/** iommufd_viommu_report_event(), iommufd_vevent_handler(). */
function report(viommu: Viommu, eventType: number, data: Uint8Array): void {
  const queue = viommu.veventqs.find((each) => each.eventType === eventType);
  must(queue !== undefined, EOPNOTSUPP);
  const { deliver } = queue;
  const full = deliver.filter((event) => event.data !== null).length === queue.depth;
  if (deliver.at(-1)?.data === null) deliver.pop();
  deliver.push({ sequence: queue.sequence, data: full ? null : data });
  queue.sequence = (queue.sequence + 1) & 0x7fff_ffff;
}

/** iommufd_veventq_fops_read(). */
export function readVevents(queue: Veventq, memory: Memory, va: bigint, count: number): number {
  must(count >= HEADER_BYTES, EINVAL);
  let done = 0;
  for (let event = queue.deliver[0]; event !== undefined; event = queue.deliver[0]) {
    const data = event.data ?? new Uint8Array(0);
    if (HEADER_BYTES > count - done) break;
    if (HEADER_BYTES + data.length > count - done) {
      must(done > 0, EINVAL);
      break;
    }
    const bytes = new Uint8Array(HEADER_BYTES + data.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, event.data === null ? LOST_EVENTS : 0, true);
    view.setUint32(4, event.sequence, true);
    bytes.set(data, HEADER_BYTES);
    memory.write(va + BigInt(done), bytes);
    done += bytes.length;
    queue.deliver.shift();
  }
  return done;
}

/** iommufd_eventq_fops_release(). */
export function closeQueue(queue: FaultQueue | Veventq): void {
  queue.users--;
  queue.context.release();
}
