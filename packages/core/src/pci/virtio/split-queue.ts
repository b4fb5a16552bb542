import { big } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import {
  VRING_AVAIL_F_NO_INTERRUPT,
  VRING_DESC_BYTES,
  VRING_DESC_F_INDIRECT,
  VRING_DESC_F_NEXT,
  VRING_DESC_F_WRITE,
} from './spec.ts';

/** The most buffers of one chain, and of one indirect table. */
const CHAIN_MAX = 1024;

/** A part of the driver's memory. */
export interface Segment {
  readonly address: bigint;
  readonly length: number;
}

/** What a driver made available: what the device may read, and what it may write. */
export interface Chain {
  readonly head: number;
  readonly readable: readonly Segment[];
  readonly writable: readonly Segment[];
}

/** Where a driver put a queue, and how large it is. */
export interface QueuePlace {
  readonly size: number;
  readonly descriptors: bigint;
  readonly driver: bigint;
  readonly device: bigint;
}

/** A driver broke the rules, or its memory cannot be reached: the device needs a reset. */
export class QueueBroken {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }
}

interface Descriptor extends Segment {
  readonly flags: number;
  readonly next: number;
}

/** The device's side of a split virtqueue: VIRTIO 1.2 §2.7. */
export class SplitQueue {
  readonly #dma: FunctionDma;
  readonly #place: QueuePlace;
  #available = 0;
  #used = 0;

  constructor(dma: FunctionDma, place: QueuePlace) {
    this.#dma = dma;
    this.#place = place;
  }

  #read(address: bigint, bytes: number): DataView | QueueBroken {
    const into = new Uint8Array(bytes);
    const stopped = this.#dma.read(BigInt.asUintN(64, address), into);
    return stopped === null ? new DataView(into.buffer) : new QueueBroken(stopped.reason);
  }

  /** The next chain that the driver made available, or null. */
  next(): Chain | QueueBroken | null {
    const { size, driver } = this.#place;
    const head = this.#read(driver, 4);
    if (head instanceof QueueBroken) return head;
    const waiting = (head.getUint16(2, true) - this.#available) & 0xffff;
    if (waiting === 0) return null;
    if (waiting > size) return new QueueBroken(`${waiting} buffers are available in a queue of ${size}`);
    const entry = this.#read(driver + big(4 + 2 * (this.#available % size)), 2);
    if (entry instanceof QueueBroken) return entry;
    const chain = this.#chain(entry.getUint16(0, true));
    if (!(chain instanceof QueueBroken)) this.#available = (this.#available + 1) & 0xffff;
    return chain;
  }

  #chain(head: number): Chain | QueueBroken {
    const readable: Segment[] = [];
    const writable: Segment[] = [];
    let table = { address: this.#place.descriptors, size: this.#place.size };
    let indirect = false;
    for (let index = head, steps = 0; ; steps++) {
      if (index >= table.size) return new QueueBroken(`descriptor ${index} of ${table.size}`);
      if (steps >= CHAIN_MAX) return new QueueBroken('a chain of descriptors does not end');
      const found = this.#descriptor(table.address, index);
      if (found instanceof QueueBroken) return found;
      if ((found.flags & VRING_DESC_F_INDIRECT) !== 0) {
        const entries = found.length / VRING_DESC_BYTES;
        const wrong =
          indirect || (found.flags & VRING_DESC_F_NEXT) !== 0 || !Number.isInteger(entries) || entries === 0;
        if (wrong || entries > CHAIN_MAX)
          return new QueueBroken(`an indirect table of ${found.length} bytes where none may be`);
        table = { address: found.address, size: entries };
        indirect = true;
        index = 0;
        continue;
      }
      if ((found.flags & VRING_DESC_F_WRITE) !== 0) writable.push(found);
      else if (writable.length > 0) return new QueueBroken('a readable buffer after a writable one');
      else readable.push(found);
      if ((found.flags & VRING_DESC_F_NEXT) === 0) return { head, readable, writable };
      index = found.next;
    }
  }

  #descriptor(table: bigint, index: number): Descriptor | QueueBroken {
    const view = this.#read(table + big(index * VRING_DESC_BYTES), VRING_DESC_BYTES);
    if (view instanceof QueueBroken) return view;
    return {
      address: view.getBigUint64(0, true),
      length: view.getUint32(8, true),
      flags: view.getUint16(12, true),
      next: view.getUint16(14, true),
    };
  }

  /** Gives a chain back, with `written` bytes in it. True where the driver wants to be told. */
  complete(chain: Chain, written: number): boolean | QueueBroken {
    const { size, driver, device } = this.#place;
    const element = new DataView(new ArrayBuffer(8));
    element.setUint32(0, chain.head, true);
    element.setUint32(4, written, true);
    const at = device + big(4 + 8 * (this.#used % size));
    const index = new DataView(new ArrayBuffer(2));
    this.#used = (this.#used + 1) & 0xffff;
    index.setUint16(0, this.#used, true);
    for (const [address, view] of [
      [at, element],
      [device + 2n, index],
    ] as const) {
      const stopped = this.#dma.write(BigInt.asUintN(64, address), new Uint8Array(view.buffer));
      if (stopped !== null) return new QueueBroken(stopped.reason);
    }
    const flags = this.#read(driver, 2);
    if (flags instanceof QueueBroken) return flags;
    return (flags.getUint16(0, true) & VRING_AVAIL_F_NO_INTERRUPT) === 0;
  }
}
