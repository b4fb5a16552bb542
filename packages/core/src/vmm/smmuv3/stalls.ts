import { hi32, lo32 } from '../../base/u64.ts';
import * as abi from '../../abi/iommufd.ts';
import type { EventQueue } from '../../iommu/arm-smmu-v3/hardware/queues/event-queue.ts';
import { translationEvent } from '../../iommu/arm-smmu-v3/hardware/queues/events.ts';
import { CLASS, EVENT } from '../../iommu/arm-smmu-v3/spec/events.ts';
import type { PageFaultGroup, PageFaultQueue } from '../page-fault-queue.ts';
import type { Stream, Streams } from './streams.ts';

/** The request does not tell what kind of fault it was. */
const FAULT = {
  type: EVENT.F_TRANSLATION,
  class: CLASS.IN,
  stage2: false,
  fetch: 0,
  ipa: 0,
  ttRead: false,
} as const;

/**
 * Transactions that wait for the guest (IHI 0070, §3.12.2): page faults of the kernel's queue become event records with
 * stall tags of the guest's, and CMD_RESUME becomes the answer.
 */
export class GuestStalls {
  readonly #queue: PageFaultQueue;
  readonly #events: EventQueue;
  readonly #streams: Streams;
  readonly #max: number;
  readonly #waiting = new Map<number, { readonly stream: Stream; readonly group: PageFaultGroup }>();
  #nextTag = 0;

  /** `max`: IDR5.STALL_MAX, at least 1. */
  constructor(queue: PageFaultQueue, events: EventQueue, streams: Streams, max: number) {
    this.#queue = queue;
    this.#events = events;
    this.#streams = streams;
    this.#max = max;
  }

  /** Tells the guest, as long as its queue has room; what is left waits in the kernel. True where there was anything. */
  deliver(): boolean {
    let any = false;
    while (this.#events.writable && this.#waiting.size < this.#max) {
      const group = this.#queue.take();
      if (group === null) break;
      any = true;
      const stream = this.#streams.ofDevice(group.device);
      if (stream === undefined || !this.#record(stream, group)) this.#queue.answer(group, false);
    }
    return any;
  }

  #record(stream: Stream, group: PageFaultGroup): boolean {
    const { pasid, address, permissions } = group.faults.at(-1)!;
    const stag = this.#freeTag();
    const transaction = { streamId: stream.sid, substreamId: pasid, hi: hi32(address), lo: lo32(address) };
    const has = (permission: number): boolean => (permissions & permission) !== 0;
    const attributes = {
      write: has(abi.IOMMU_PGFAULT_PERM_WRITE),
      instruction: has(abi.IOMMU_PGFAULT_PERM_EXEC),
      privileged: has(abi.IOMMU_PGFAULT_PERM_PRIV),
    };
    const recorded = this.#events.recordStall(translationEvent(FAULT, transaction, attributes, stag));
    if (recorded) this.#waiting.set(stag, { stream, group });
    return recorded;
  }

  /** Tags go round, so that an answer given twice does not meet another transaction at once. */
  #freeTag(): number {
    while (this.#waiting.has(this.#nextTag)) this.#nextTag = (this.#nextTag + 1) % this.#max;
    const tag = this.#nextTag;
    this.#nextTag = (tag + 1) % this.#max;
    return tag;
  }

  /** CMD_RESUME (§4.7.1): nothing where tag and stream do not belong together. Linux can retry and abort. */
  resume(sid: number, stag: number, retry: boolean): void {
    const waiting = this.#waiting.get(stag);
    if (waiting === undefined || waiting.stream.sid !== sid) return;
    this.#waiting.delete(stag);
    this.#queue.answer(waiting.group, retry);
  }

  /** CMD_STALL_TERM (§4.7.2): also what the guest has not been told of. */
  terminate(stream: Stream): void {
    this.#endAll(stream);
    this.#queue.refuse((group) => group.device === stream.device.id);
  }

  /** The stream has another domain: the kernel has ended what waited. */
  forget(stream: Stream): void {
    this.#endAll(stream);
    this.#queue.forget((group) => group.device === stream.device.id);
  }

  #endAll(stream: Stream): void {
    for (const [stag, waiting] of this.#waiting) if (waiting.stream === stream) this.#waiting.delete(stag);
  }
}
