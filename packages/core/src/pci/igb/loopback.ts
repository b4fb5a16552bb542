import type { BarMemory } from '../bar-memory.ts';
import type { FunctionDma } from '../dma.ts';
import {
  DESCRIPTOR_BYTES,
  PACKET_MAX,
  PAYLOAD_MIN,
  QUEUE_ENABLE,
  RCTL_BSIZE_SHIFT,
  RCTL_EN,
  REG,
  TCTL_EN,
  TCTL_PSP,
  TXD_DEXT,
  TXD_DTYP_DATA,
  TXD_DTYP_MASK,
  TXD_EOP,
  TXD_RS,
  TXD_STA_DD,
} from './registers.ts';
import { FETCH, ReceiveBurst, fetchDescriptors, readRing, type Ring } from './rings.ts';

// Transmit queue 0 into receive queue 0: 82576 datasheet §7.1.5 and §7.2.2, advanced descriptors.

export interface Tails {
  readonly transmit: number;
  readonly receive: number;
}

export interface LoopbackResult {
  /** Packets that came in. */
  readonly received: number;
  /** More descriptors wait. */
  readonly more: boolean;
  /** A request was refused in this run: nothing goes on until a reset. */
  readonly hung: boolean;
}

const NOTHING: LoopbackResult = { received: 0, more: false, hung: false };

export class LoopbackRings {
  readonly #memory: BarMemory;
  readonly #dma: FunctionDma;
  readonly #beforeWriteBack: () => void;
  readonly #packet = new Uint8Array(PACKET_MAX);
  #length = 0;
  #padded = false;
  /** A request failed: the hardware's descriptor engine does not go on until a reset. */
  #hung = false;

  /** `beforeWriteBack` is called before a program can see that packets came in. */
  constructor(memory: BarMemory, dma: FunctionDma, beforeWriteBack: () => void) {
    this.#memory = memory;
    this.#dma = dma;
    this.#beforeWriteBack = beforeWriteBack;
  }

  reset(): void {
    this.#length = 0;
    this.#hung = false;
  }

  readTails(): Tails {
    const transmit = this.#memory.get32(REG.TDT);
    return { transmit, receive: this.#memory.get32(REG.RDT) };
  }

  /** Sends up to `budget` descriptors. Where packets do not loop they go nowhere. */
  run(tails: Tails, loops: boolean, budget: number): LoopbackResult {
    const control = this.#memory.get32(REG.TCTL);
    if (this.#hung || (control & TCTL_EN) === 0 || !this.#enabled(REG.TXDCTL)) return NOTHING;
    this.#padded = (control & TCTL_PSP) !== 0;
    const ring = readRing(this.#memory, REG.TDBAL);
    const burst = loops ? this.#receiver(tails.receive) : null;
    let head = this.#memory.get32(REG.TDH);
    const waits = (): boolean =>
      !this.#hung && head < ring.count && tails.transmit < ring.count && head !== tails.transmit;
    if (!waits()) return NOTHING;
    let received = 0;
    for (let left = budget; left > 0 && waits();) {
      const end = head < tails.transmit ? tails.transmit : ring.count;
      const descriptors = fetchDescriptors(this.#dma, ring, head, Math.min(end - head, FETCH, left));
      if (descriptors === null) this.#hung = true;
      for (let at = 0; !this.#hung && at < descriptors!.byteLength; at += DESCRIPTOR_BYTES) {
        received += this.#transmit(ring, head, descriptors!, at, burst);
        if (!this.#hung) head = (head + 1) % ring.count;
        left--;
      }
    }
    if (burst !== null && !burst.flush()) this.#hung = true;
    if (burst !== null) this.#memory.set32(REG.RDH, burst.head);
    this.#memory.set32(REG.TDH, head);
    return { received, more: waits(), hung: this.#hung };
  }

  #enabled(control: number): boolean {
    return (this.#memory.get32(control) & QUEUE_ENABLE) !== 0;
  }

  #receiver(tail: number): ReceiveBurst | null {
    const control = this.#memory.get32(REG.RCTL);
    if ((control & RCTL_EN) === 0 || !this.#enabled(REG.RXDCTL)) return null;
    const ring = readRing(this.#memory, REG.RDBAL);
    const head = this.#memory.get32(REG.RDH);
    if (head >= ring.count) return null;
    // SRRCTL.BSIZEPACKET in KiB; where it is 0, RCTL.BSIZE: 2048, 1024, 512 or 256 bytes.
    const kib = this.#memory.get32(REG.SRRCTL) & 0x7f;
    const buffer = kib > 0 ? kib * 1024 : 2048 >>> ((control >>> RCTL_BSIZE_SHIFT) & 3);
    return new ReceiveBurst(this.#dma, ring, { head, tail, buffer }, this.#beforeWriteBack);
  }

  /** One transmit descriptor; answers how many packets came in of it. */
  #transmit(ring: Ring, index: number, view: DataView, at: number, burst: ReceiveBurst | null): number {
    const command = view.getUint32(at + 8, true);
    // Context descriptors, and those of the old format, carry nothing for this subset.
    const data = (command & TXD_DEXT) !== 0 && (command & TXD_DTYP_MASK) === TXD_DTYP_DATA;
    const received = data ? this.#gather(view.getBigUint64(at, true), command, burst) : 0;
    if (!this.#hung && (command & TXD_RS) !== 0) {
      const status = new Uint8Array([TXD_STA_DD, 0, 0, 0]);
      const to = ring.base + BigInt(index * DESCRIPTOR_BYTES + 12);
      if (this.#dma.write(to, status) !== null) this.#hung = true;
    }
    return received;
  }

  /** Adds a buffer to the packet, and lets it loop where it is the last. */
  #gather(address: bigint, command: number, burst: ReceiveBurst | null): number {
    const bytes = Math.min(command & 0xffff, PACKET_MAX - this.#length);
    const part = this.#packet.subarray(this.#length, this.#length + bytes);
    if (this.#dma.read(address, part) !== null) {
      this.#hung = true;
      return 0;
    }
    this.#length += bytes;
    if ((command & TXD_EOP) === 0) return 0;
    let length = this.#length;
    this.#length = 0;
    if (this.#padded && length < PAYLOAD_MIN) {
      this.#packet.fill(0, length, PAYLOAD_MIN);
      length = PAYLOAD_MIN;
    }
    if (burst === null || !burst.fits(length)) return 0;
    this.#hung = !burst.deliver(this.#packet.subarray(0, length));
    return this.#hung ? 0 : 1;
  }
}
