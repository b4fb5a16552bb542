import { assert } from '../../../../base/assert.ts';
import { readField } from '../../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { hex, hi32, lo32, PAGE_SIZE } from '../../../../base/u64.ts';
import { EAGAIN, EINVAL, ETIMEDOUT } from '../../../../abi/errno.ts';
import type { PhysicalSpace } from '../../../../memory/physical-space.ts';
import { POLLS_MAX, type Mmio } from '../../../drivers/mmio.ts';
import { FSTS, IQERCD, OFFSET } from '../../spec/registers.ts';
import { wait, WAIT, type Descriptor } from './descriptors.ts';
import { QI_LENGTH, QI_RESTARTS_MAX } from '../limits.ts';

// The invalidation queue in memory, and the wait for what is in it: struct q_inval, drivers/iommu/intel/dmar.c
// qi_submit_sync() and qi_check_fault().

/** desc_status */
const STATUS = { FREE: 0, IN_USE: 1, DONE: 2, ABORT: 3 } as const;

/** With DW in IQA: 256 bits. */
const DESCRIPTOR_BYTES = 32;
const SHIFT = 5;
const QUEUE_PAGES = (QI_LENGTH * DESCRIPTOR_BYTES) / PAGE_SIZE;
/** IQA.DW and QS: 256-bit descriptors, 2^1 pages. */
const IQA_WIDE = 0x801n;
const ERRORS = FSTS.IQE.inPlace | FSTS.ITE.inPlace | FSTS.ICE.inPlace;

export interface InvalidationQueueOptions {
  readonly physical: PhysicalSpace;
  readonly mmio: Mmio;
  /** Whether a function of that source-id is there: its invalidations are worth another try. */
  readonly present: (requesterId: number) => boolean;
  readonly log: (text: string) => void;
}

export class InvalidationQueue {
  readonly base: number;
  readonly #options: InvalidationQueueOptions;
  /** A u32 for each descriptor, which hardware writes when a wait descriptor is done. */
  readonly #status: number;
  readonly #word = new Uint32Array(2);
  #head = 0;

  constructor(options: InvalidationQueueOptions) {
    this.#options = options;
    this.base = options.physical.allocate(QUEUE_PAGES);
    this.#status = options.physical.allocate(1);
  }

  /** __dmar_enable_qi(), but for the command to enable. */
  program(): void {
    const { mmio } = this.#options;
    this.#head = 0;
    mmio.write32(OFFSET.IQT, 0);
    mmio.write64(OFFSET.IQA, BigInt(this.base) | IQA_WIDE);
  }

  free(): void {
    this.#options.physical.free(this.base, QUEUE_PAGES);
    this.#options.physical.free(this.#status, 1);
  }

  /**
   * qi_submit_sync(): the descriptors, and a wait descriptor behind them that is waited for; with `drain`, also for page
   * requests on their way. EINVAL where hardware refuses a descriptor, ETIMEDOUT where a device that is gone does not
   * answer. DEVIATION: Linux tries for ever where a device that is there does not answer, or hardware stands still; here
   * that ends in ETIMEDOUT.
   */
  submit(descriptors: readonly Descriptor[], drain = false): Result<void> {
    assert(descriptors.length + 2 <= QI_LENGTH, 'more descriptors than the queue has room for');
    for (let restarts = 0; restarts < QI_RESTARTS_MAX; restarts++) {
      const done = this.#submitOnce(descriptors, drain);
      if (!failed(done) || done.errno !== EAGAIN) return done;
    }
    this.#options.log('QI: a device does not answer');
    return fail(ETIMEDOUT, 'an invalidation never completes');
  }

  #submitOnce(descriptors: readonly Descriptor[], drain: boolean): Result<void> {
    const index = this.#head;
    for (const descriptor of descriptors) this.#push(descriptor);
    const waitIndex = this.#head;
    const flags = WAIT.STATUS_WRITE | (drain ? WAIT.DRAIN : 0);
    this.#push(wait(flags, STATUS.DONE, this.#status + waitIndex * 4));
    this.#options.mmio.write32(OFFSET.IQT, this.#head << SHIFT);
    const done = this.#waitFor(index, waitIndex);
    for (let i = index; i !== this.#head; i = (i + 1) % QI_LENGTH) this.#setStatus(i, STATUS.FREE);
    return done;
  }

  #push(descriptor: Descriptor): void {
    const { physical } = this.#options;
    const at = this.base + this.#head * DESCRIPTOR_BYTES;
    const stored = physical.store64(at, descriptor[0], descriptor[1]);
    assert(stored && physical.store64(at + 8, descriptor[2], descriptor[3]), 'the queue is gone');
    physical.store64(at + 16, 0, 0);
    physical.store64(at + 24, 0, 0);
    this.#setStatus(this.#head, STATUS.IN_USE);
    this.#head = (this.#head + 1) % QI_LENGTH;
  }

  #statusOf(index: number): number {
    const at = this.#status + index * 4;
    this.#options.physical.load64(at & ~7, this.#word);
    return this.#word[(at >>> 2) & 1]!;
  }

  #setStatus(index: number, status: number): void {
    this.#statusOf(index);
    this.#word[index & 1] = status;
    this.#options.physical.store64(this.#status + (index & ~1) * 4, this.#word[0]!, this.#word[1]!);
  }

  #waitFor(index: number, waitIndex: number): Result<void> {
    const { mmio, log } = this.#options;
    for (let polls = 0; polls < POLLS_MAX; polls++) {
      if (this.#statusOf(waitIndex) === STATUS.DONE) return;
      const checked = this.#checkFault(index, waitIndex);
      if (failed(checked)) return checked;
      mmio.relax();
    }
    log(`QI: head ${hex(mmio.read32(OFFSET.IQH))} does not move`);
    return fail(ETIMEDOUT, 'the invalidation queue does not move');
  }

  // qi_check_fault(): EAGAIN where all has to be sent again.
  #checkFault(index: number, waitIndex: number): Result<void> {
    const { mmio, log } = this.#options;
    if (this.#statusOf(waitIndex) === STATUS.ABORT) return fail(EAGAIN, 'aborted');
    const fault = mmio.read32(OFFSET.FSTS);
    if ((fault & ERRORS) !== 0) this.#logFault(fault);
    if ((fault & FSTS.IQE.inPlace) !== 0) {
      const refused = this.#skipRefused(index, waitIndex);
      if (failed(refused)) return refused;
    }
    if ((fault & FSTS.ITE.inPlace) !== 0) {
      const again = this.#abortFetched(waitIndex);
      if (failed(again)) return again;
    }
    if ((fault & FSTS.ICE.inPlace) !== 0) {
      mmio.write32(OFFSET.FSTS, FSTS.ICE.inPlace);
      log('Invalidation Completion Error (ICE) cleared');
    }
  }

  #logFault(fault: number): void {
    const { mmio, log } = this.#options;
    const error = mmio.read64(OFFSET.IQERCD);
    const words = [lo32(error), hi32(error)];
    if ((fault & FSTS.IQE.inPlace) !== 0)
      log(`Invalidation Queue Error: reason ${readField(IQERCD.IQEI, words)}`);
    if ((fault & FSTS.ITE.inPlace) !== 0)
      log(`Invalidation Time-out Error: SID ${hex(readField(IQERCD.ITESID, words))}`);
    if ((fault & FSTS.ICE.inPlace) !== 0)
      log(`Invalidation Completion Error: SID ${hex(readField(IQERCD.ICESID, words))}`);
  }

  // The refused descriptor becomes a copy of the wait descriptor, and the queue goes on.
  #skipRefused(index: number, waitIndex: number): Result<void> {
    const { mmio, physical, log } = this.#options;
    const head = mmio.read32(OFFSET.IQH) >>> SHIFT;
    if (head !== index) return;
    for (let offset = 0; offset < DESCRIPTOR_BYTES; offset += 8) {
      physical.load64(this.base + waitIndex * DESCRIPTOR_BYTES + offset, this.#word);
      physical.store64(this.base + head * DESCRIPTOR_BYTES + offset, this.#word[0]!, this.#word[1]!);
    }
    mmio.write32(OFFSET.FSTS, FSTS.IQE.inPlace);
    log('Invalidation Queue Error (IQE) cleared');
    return fail(EINVAL, 'a descriptor is refused');
  }

  // Wait descriptors that hardware has taken are aborted with the time-out.
  #abortFetched(waitIndex: number): Result<void> {
    const { mmio, present, log } = this.#options;
    const before = (offset: number): number => ((mmio.read32(offset) >>> SHIFT) - 1 + QI_LENGTH) % QI_LENGTH;
    let head = before(OFFSET.IQH);
    const tail = before(OFFSET.IQT);
    const error = mmio.read64(OFFSET.IQERCD);
    const requesterId = readField(IQERCD.ITESID, [lo32(error), hi32(error)]);
    mmio.write32(OFFSET.FSTS, FSTS.ITE.inPlace);
    log('Invalidation Time-out Error (ITE) cleared');
    do {
      if (this.#statusOf(head) === STATUS.IN_USE) this.#setStatus(head, STATUS.ABORT);
      head = (head - 1 + QI_LENGTH) % QI_LENGTH;
    } while (head !== tail);
    if (requesterId !== 0 && !present(requesterId))
      return fail(ETIMEDOUT, `the device ${hex(requesterId)} is gone`);
    if (this.#statusOf(waitIndex) === STATUS.ABORT) return fail(EAGAIN, 'aborted');
  }
}
