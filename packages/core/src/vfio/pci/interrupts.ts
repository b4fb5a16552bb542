import { assert } from '../../base/assert.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { EBUSY, EINVAL, ENODEV, ENOSPC, ERANGE } from '../../abi/errno.ts';
import { VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from '../../abi/vfio.ts';
import type { Eventfd, Process } from '../../memory/process.ts';
import type { PciFunction } from '../../pci/function.ts';
import {
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from '../../pci/spec.ts';

// drivers/vfio/pci/vfio_pci_intrs.c: how interrupts of a function become signals of eventfds. The kernel is who programs
// the function's vectors; a program only says which eventfd each has.

/** What the kernel lets a function write to where nothing translates messages; what it writes is the vector. */
const DOORBELL = 0xfee0_0000n;

/** The address that a function is to write messages to: fails where they would not pass its IOMMU. */
export type PrepareMessages = () => Result<bigint>;

/** vdev->irq_type: what interrupts come by now. */
export type InterruptType = 'none' | 'intx' | 'msi' | 'msix';

const TYPES: Readonly<Record<number, InterruptType>> = {
  [VFIO_PCI_INTX_IRQ_INDEX]: 'intx',
  [VFIO_PCI_MSI_IRQ_INDEX]: 'msi',
  [VFIO_PCI_MSIX_IRQ_INDEX]: 'msix',
};

/** The type that an index of VFIO_DEVICE_SET_IRQS names. */
export function interruptType(index: number): InterruptType {
  return TYPES[index] ?? 'none';
}

/** INTx while it is in use: struct vfio_pci_irq_ctx. */
interface Intx {
  trigger: Eventfd | null;
  unmask: Eventfd | null;
  masked: boolean;
}

/** How a function's interrupts are delivered while a program has it. */
export class VfioInterrupts {
  readonly #pci: PciFunction;
  type: InterruptType = 'none';
  /** vdev->msi_qmax: vectors of MSI that were asked for, as log2. */
  msiQueueMax = 0;
  /** vdev->virq_disabled: the program turned INTx off in configuration space. */
  #intxDisabled = false;
  #intx: Intx | null = null;
  /** pm_intx_masked: INTx is masked because the device sleeps. */
  #maskedAsleep = false;
  readonly #vectors = new Map<number, Eventfd>();
  readonly #prepare: PrepareMessages;
  #address = DOORBELL;
  /** Vectors that the kernel has for the function; of MSI-X more are taken one by one. */
  #allocated = 0;
  /** The two that are signalled by no interrupt: errors, and the request to give the device back. */
  error: Eventfd | null = null;
  request: Eventfd | null = null;

  constructor(pci: PciFunction, prepare: PrepareMessages | null) {
    this.#pci = pci;
    this.#prepare = prepare ?? (() => DOORBELL);
  }

  // ---- what the function does ----

  /** A message came. */
  message(vector: number): void {
    this.#vectors.get(vector)?.signal();
  }

  /** The level of the pin changed: vfio_intx_handler(), which masks until the program unmasks. */
  intxLevel(asserted: boolean): void {
    const intx = this.#intx;
    if (!asserted || intx === null || intx.masked) return;
    this.#setPinDisabled(true);
    intx.masked = true;
    this.#signalIntx(intx);
  }

  // ---- INTx ----

  get intxEnabled(): boolean {
    return this.#intx !== null;
  }

  /** vfio_intx_enable() */
  enableIntx(trigger: Eventfd | null): Result<void> {
    if (this.type !== 'none') return fail(EINVAL, `interrupts come by ${this.type} now`);
    if (this.#pci.description.intx !== true) return fail(ENODEV, 'the function has no interrupt pin');
    this.type = 'intx';
    this.#intx = { trigger, unmask: null, masked: this.#intxDisabled };
    this.#setPinDisabled(this.#intx.masked);
    if (!this.#intx.masked && this.#pinPending) this.intxLevel(true);
  }

  /** vfio_intx_set_signal() */
  setIntxTrigger(trigger: Eventfd | null): void {
    assert(this.#intx !== null, 'INTx is in use');
    this.#intx.trigger?.release();
    this.#intx.trigger = trigger;
  }

  /** vfio_intx_disable() */
  disableIntx(): void {
    this.#intx?.unmask?.release();
    this.#intx?.trigger?.release();
    this.#intx = null;
    this.type = 'none';
  }

  /** VFIO_IRQ_SET_ACTION_TRIGGER without an interrupt. */
  triggerIntx(): void {
    if (this.#intx !== null) this.#signalIntx(this.#intx);
  }

  /** vfio_pci_intx_mask() */
  maskIntx(): void {
    this.#setPinDisabled(true);
    if (this.#intx !== null) this.#intx.masked = true;
  }

  /** The device is about to sleep: vfio_pci_core_runtime_suspend(). */
  suspend(): void {
    this.#maskedAsleep = this.#intx !== null && !this.#intx.masked;
    if (this.#maskedAsleep) this.maskIntx();
  }

  /** It is awake again: vfio_pci_core_runtime_resume(). */
  resume(): void {
    if (this.#maskedAsleep) this.unmaskIntx();
    this.#maskedAsleep = false;
  }

  /** vfio_pci_intx_unmask(): where the pin is asserted still, another signal and masked again. */
  unmaskIntx(): void {
    const intx = this.#intx;
    if (intx === null) {
      this.#setPinDisabled(false);
      return;
    }
    if (!intx.masked || this.#intxDisabled) return;
    if (this.#pinPending) {
      this.#signalIntx(intx);
      return;
    }
    intx.masked = false;
    this.#setPinDisabled(false);
  }

  /** The program changed PCI_COMMAND_INTX_DISABLE. */
  setIntxDisabled(disabled: boolean): void {
    this.#intxDisabled = disabled;
    if (disabled) this.maskIntx();
    else this.unmaskIntx();
  }

  /**
   * An eventfd by which the program unmasks INTx; null takes it away. EBUSY where there is one that is still open: one
   * that was closed is gone (drivers/vfio/virqfd.c virqfd_wakeup()), which QEMU counts on when it gives KVM another.
   */
  setIntxUnmask(eventfd: Eventfd | null): Result<void> {
    assert(this.#intx !== null, 'INTx is in use');
    if (eventfd === null || this.#intx.unmask?.open() === false) {
      this.#intx.unmask?.release();
      this.#intx.unmask = null;
    }
    if (eventfd === null) return;
    if (this.#intx.unmask !== null) {
      eventfd.release();
      return fail(EBUSY, 'INTx is unmasked by another eventfd');
    }
    this.#intx.unmask = eventfd;
    eventfd.watch(() => this.unmaskIntx());
  }

  #signalIntx({ trigger }: Intx): void {
    if (!this.#intxDisabled) trigger?.signal();
  }

  get #pinPending(): boolean {
    return (this.#pci.readConfig(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT) !== 0;
  }

  // pci_intx(): the function's own bit, which the program does not see.
  #setPinDisabled(disabled: boolean): void {
    const command = this.#pci.readConfig(PCI_COMMAND, 2);
    const next = disabled ? command | PCI_COMMAND_INTX_DISABLE : command & ~PCI_COMMAND_INTX_DISABLE;
    if (next !== command) this.#pci.writeConfig(PCI_COMMAND, 2, next);
  }

  // ---- MSI and MSI-X ----

  /** vfio_msi_enable(): `count` vectors are wanted; ERANGE for none (pci_alloc_irq_vectors()). */
  enableMessages(type: 'msi' | 'msix', count: number): Result<void> {
    if (this.type !== 'none') return fail(EINVAL, `interrupts come by ${this.type} now`);
    if (count === 0) return fail(ERANGE, 'no vector is asked for');
    // msi_handle_pci_fail()
    const address = this.#prepare();
    if (failed(address)) return fail(ENOSPC, address.reason);
    this.#address = address;
    this.type = type;
    this.#allocated = count;
    const pci = this.#pci;
    if (type === 'msix') {
      this.#setFlag(PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, true);
      return;
    }
    const at = pci.config.capability(PCI_CAP_ID_MSI) + PCI_MSI_FLAGS;
    this.msiQueueMax = Math.ceil(Math.log2(count));
    const flags = pci.readConfig(at, 2) & ~PCI_MSI_FLAGS_QSIZE;
    pci.writeConfig(at, 2, flags | (this.msiQueueMax << 4));
    this.#programMsi();
  }

  /** vfio_msi_set_block(): each vector from `start` on gets its eventfd, none where the descriptor is negative. */
  setVectors(process: Process, start: number, fds: readonly number[]): Result<void> {
    for (const [index, fd] of fds.entries()) {
      const set = this.#setVector(process, start + index, fd);
      if (!failed(set)) continue;
      for (let done = start; done <= start + index; done++) this.#clearVector(done);
      return set;
    }
  }

  /** Signals vectors as if the function had. `which`: by place from `start` on. */
  triggerVectors(start: number, which: readonly boolean[]): void {
    for (const [index, wanted] of which.entries()) if (wanted) this.#vectors.get(start + index)?.signal();
  }

  /** vfio_msi_disable() */
  disableMessages(): void {
    for (const vector of [...this.#vectors.keys()]) this.#clearVector(vector);
    if (this.type === 'msix') this.#setFlag(PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, false);
    if (this.type === 'msi') this.#setFlag(PCI_CAP_ID_MSI, PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE, false);
    this.type = 'none';
  }

  // vfio_msi_set_vector_signal()
  #setVector(process: Process, vector: number, fd: number): Result<void> {
    this.#clearVector(vector);
    if (fd < 0) return;
    // vfio_msi_alloc_irq()
    if (this.type === 'msi' && vector >= this.#allocated)
      return fail(EINVAL, `${this.#allocated} vectors of MSI were asked for`);
    const eventfd = process.eventfd(fd);
    if (failed(eventfd)) return eventfd;
    this.#vectors.set(vector, eventfd);
    if (this.type === 'msix') this.#program(vector);
  }

  #clearVector(vector: number): void {
    const eventfd = this.#vectors.get(vector);
    if (eventfd === undefined) return;
    this.#vectors.delete(vector);
    if (this.type === 'msix') this.#pci.msix?.mask(vector, true);
    eventfd.release();
  }

  #program(vector: number): void {
    this.#pci.msix?.program(vector, { address: this.#address, data: vector });
  }

  #programMsi(): void {
    const pci = this.#pci;
    const at = pci.config.capability(PCI_CAP_ID_MSI);
    pci.writeConfig(at + PCI_MSI_ADDRESS_LO, 4, lo32(this.#address));
    pci.writeConfig(at + PCI_MSI_ADDRESS_HI, 4, hi32(this.#address));
    pci.writeConfig(at + PCI_MSI_DATA_64, 2, 0);
    this.#setFlag(PCI_CAP_ID_MSI, PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE, true);
  }

  #setFlag(capability: number, offset: number, flag: number, on: boolean): void {
    const at = this.#pci.config.capability(capability) + offset;
    const flags = this.#pci.readConfig(at, 2);
    this.#pci.writeConfig(at, 2, on ? flags | flag : flags & ~flag);
  }

  // ---- the end ----

  /** The device is given back: vfio_pci_core_disable() and close_device(). */
  disable(): void {
    if (this.type === 'intx') this.disableIntx();
    else if (this.type !== 'none') this.disableMessages();
    this.#intxDisabled = false;
    this.error?.release();
    this.request?.release();
    this.error = null;
    this.request = null;
  }
}
