import type { DmaResult } from '../iommu/requests/dma-port.ts';
import type { MmioWindow } from '../memory/physical-space.ts';

/** Where in its page the interrupt controller takes messages: GITS_TRANSLATER (IHI 0069H §12.19.12). */
const TRANSLATER = 0x40;
const PAGE_BYTES = 0x1000;

/**
 * The page of an interrupt controller that functions write their messages to: Arm's GICv3 ITS. The IOMMU has to let the
 * write through like any other. Which function it was is told beside the write, as the ITS gets the DeviceID.
 */
export class MessageDoorbell implements MmioWindow {
  readonly start: number;
  readonly bytes = PAGE_BYTES;
  #arrived: number | null = null;

  /** `start`: the physical address of its page. */
  constructor(start: number) {
    this.start = start;
  }

  /** The physical address that messages are written to. */
  get address(): number {
    return this.start + TRANSLATER;
  }

  /** Whether a function's write came here, and what stopped it else. */
  take(write: () => DmaResult): { readonly arrived: boolean; readonly reason: string } {
    this.#arrived = null;
    const stopped = write();
    const arrived = stopped === null && this.#arrived !== null;
    this.#arrived = null;
    return { arrived, reason: stopped?.reason ?? 'it was written elsewhere' };
  }

  /** Registers of the controller are no business of devices: nothing can be read. */
  read(): boolean {
    return false;
  }

  /**
   * DEVIATION: what is written by a DMA that is no message is lost; an ITS takes it for an event of the device that wrote.
   */
  write(offset: number, from: Uint8Array): boolean {
    if (offset !== TRANSLATER || from.length !== 4) return false;
    this.#arrived = new DataView(from.buffer, from.byteOffset, 4).getUint32(0, true);
    return true;
  }
}
