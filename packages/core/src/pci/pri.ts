import {
  PRG_RESPONSE_CODE,
  type PageRequestMessage,
  type PageResponseMessage,
} from '../iommu/requests/dma-port.ts';
import type { ConfigSpace } from './config-space.ts';
import {
  PCI_EXT_CAP_ID_PRI,
  PCI_PRI_ALLOC_REQ,
  PCI_PRI_CTRL,
  PCI_PRI_CTRL_ENABLE,
  PCI_PRI_CTRL_RESET,
  PCI_PRI_MAX_REQ,
  PCI_PRI_STATUS,
  PCI_PRI_STATUS_PASID,
  PCI_PRI_STATUS_RF,
  PCI_PRI_STATUS_STOPPED,
  PCI_PRI_STATUS_UPRGI,
} from './spec.ts';

/** The Page Request capability, and what is outstanding: PCI Express Base §10.5.2. */
export class Pri {
  readonly #config: ConfigSpace;
  readonly #at: number;
  /** How many requests of each group are unanswered. */
  readonly #outstanding = new Map<number, number>();
  #used = 0;

  /** `capacity`: page requests that the function can have outstanding. */
  constructor(config: ConfigSpace, capacity: number) {
    this.#config = config;
    const at = config.addExtendedCapability(PCI_EXT_CAP_ID_PRI, 1, 16);
    this.#at = at;
    config.define({
      offset: at + PCI_PRI_CTRL,
      size: 2,
      writable: PCI_PRI_CTRL_ENABLE,
      onWrite: (value, before, written) => this.#controlled(value, before, written),
    });
    config.define({
      offset: at + PCI_PRI_STATUS,
      size: 2,
      value: PCI_PRI_STATUS_STOPPED | PCI_PRI_STATUS_PASID,
      clearable: PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI,
    });
    config.define({ offset: at + PCI_PRI_MAX_REQ, size: 4, value: capacity });
    config.define({ offset: at + PCI_PRI_ALLOC_REQ, size: 4, writable: 0xffff_ffff });
  }

  #controlled(value: number, before: number, written: number): void {
    const on = (value & PCI_PRI_CTRL_ENABLE) !== 0;
    this.#status(on ? 0 : PCI_PRI_STATUS_STOPPED, PCI_PRI_STATUS_STOPPED);
    const wasOn = (before & PCI_PRI_CTRL_ENABLE) !== 0;
    // Reset counts while the interface is disabled.
    if ((written & PCI_PRI_CTRL_RESET) !== 0 && !wasOn) this.forget();
  }

  #status(set: number, mask: number): void {
    const at = this.#at + PCI_PRI_STATUS;
    this.#config.set(at, 2, (this.#config.read(at, 2) & ~mask) | set);
  }

  get enabled(): boolean {
    return (this.#config.read(this.#at + PCI_PRI_CTRL, 2) & PCI_PRI_CTRL_ENABLE) !== 0;
  }

  /** Page requests that could be sent now: what software allocated, less what is outstanding. */
  get room(): number {
    const capacity = this.#config.read(this.#at + PCI_PRI_MAX_REQ, 4);
    return Math.min(capacity, this.#config.read(this.#at + PCI_PRI_ALLOC_REQ, 4)) - this.#used;
  }

  sent({ prgIndex, read, write, last }: PageRequestMessage): void {
    // A Stop Marker is answered by nobody.
    if (last && !read && !write) return;
    this.#outstanding.set(prgIndex, (this.#outstanding.get(prgIndex) ?? 0) + 1);
    this.#used++;
  }

  /** A PRG Response Message came. False where no such group is outstanding. */
  answered({ prgIndex, code }: PageResponseMessage): boolean {
    const requests = this.#outstanding.get(prgIndex);
    if (requests === undefined) {
      this.#status(PCI_PRI_STATUS_UPRGI, 0);
      return false;
    }
    this.#outstanding.delete(prgIndex);
    this.#used -= requests;
    if (code === PRG_RESPONSE_CODE.RESPONSE_FAILURE) this.#status(PCI_PRI_STATUS_RF, 0);
    return true;
  }

  /** Nothing is outstanding any more. */
  forget(): void {
    this.#outstanding.clear();
    this.#used = 0;
  }
}
