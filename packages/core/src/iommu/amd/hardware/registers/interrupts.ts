// The IOMMU's own interrupts (§2.8). One is signalled when a status bit and its enable come to be both set: a bit that
// software has not cleared signals nothing again.

import type { Trace } from '../../../../trace/trace.ts';
import { MISC_INFO0 } from '../../spec/features.ts';
import { CONTROL, MSI_CAP, OFFSET, PPR_OVERFLOW_EARLY, STATUS, XT_INTERRUPT } from '../../spec/registers.ts';
import type { RegisterFile } from './registers.ts';
import type { InterruptSource, Msi } from '../transaction.ts';

const EVENT_BITS = STATUS.EventOverflow.inPlace | STATUS.EventLogInt.inPlace;
const WAIT_BITS = STATUS.ComWaitInt.inPlace;
const PPR_BITS = STATUS.PprOverflow.inPlace | STATUS.PprInt.inPlace;
const EARLY_BITS = STATUS.PprOverflowEarly.inPlace;

export class Interrupts {
  readonly #registers: RegisterFile;
  readonly #trace: Trace | null;
  readonly #onInterrupt: (source: InterruptSource) => void;
  readonly #onMsi: (msi: Msi) => void;
  /** Status bits that were set and enabled when last looked at. */
  #active = 0;

  constructor(
    registers: RegisterFile,
    trace: Trace | null,
    onInterrupt: (source: InterruptSource) => void,
    onMsi: (msi: Msi) => void,
  ) {
    this.#registers = registers;
    this.#trace = trace;
    this.#onInterrupt = onInterrupt;
    this.#onMsi = onMsi;
  }

  reset(): void {
    this.#active = 0;
  }

  /** Sets status bits, and interrupts for them. */
  raise(bits: number): void {
    this.#registers.status |= bits;
    this.update();
  }

  /** STATUS or an enable has changed. */
  update(): void {
    const registers = this.#registers;
    let enabled = 0;
    if (registers.enabled(CONTROL.EventIntEn.inPlace)) enabled |= EVENT_BITS;
    if (registers.enabled(CONTROL.ComWaitIntEn.inPlace)) enabled |= WAIT_BITS;
    if (registers.enabled(CONTROL.PprIntEn.inPlace)) enabled |= PPR_BITS;
    if ((registers.get(OFFSET.PPR_OVERFLOW_EARLY) & PPR_OVERFLOW_EARLY.PprOvrflwEarlyIntEn.inPlace) !== 0) {
      enabled |= EARLY_BITS;
    }
    const active = registers.status & enabled;
    const risen = active & ~this.#active;
    this.#active = active;
    if ((risen & EVENT_BITS) !== 0) this.#signal('event-log');
    if ((risen & WAIT_BITS) !== 0) this.#signal('completion-wait');
    if ((risen & (PPR_BITS | EARLY_BITS)) !== 0) this.#signal('ppr-log');
  }

  #signal(source: InterruptSource): void {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'interrupt', unit: 'amd-iommu', interrupt: source });
    }
    const msi = this.#message(source === 'ppr-log');
    if (msi !== null) {
      if (this.#trace !== null && this.#trace.active)
        this.#trace.emit({ kind: 'msi', unit: 'amd-iommu', ...msi });
      this.#onMsi(msi);
    }
    this.#onInterrupt(source);
  }

  /** The message of an interrupt, where any is configured: XT registers, else the MSI capability. */
  #message(ppr: boolean): Msi | null {
    const registers = this.#registers;
    if ((registers.get(OFFSET.CONTROL + 4) & CONTROL.IntCapXTEn.inPlace) !== 0) {
      const offset = ppr ? OFFSET.XT_PPR_INT : OFFSET.XT_GEN_INT;
      return xtMessage(registers.get(offset), registers.get(offset + 4));
    }
    const capability = registers.get(OFFSET.MSI_CAP);
    if ((capability & MSI_CAP.MsiEn.inPlace) === 0) return null;
    const messages = 1 << ((capability >>> MSI_CAP.MsiMultMessEn.shift) & MSI_CAP.MsiMultMessEn.mask);
    const field = ppr ? MISC_INFO0.MsiNumPPR : MISC_INFO0.MsiNum;
    const number = (registers.get(OFFSET.MSI_VECTOR0) >>> field.shift) & field.mask;
    const data = registers.get(OFFSET.MSI_DATA);
    return {
      hi: registers.get(OFFSET.MSI_ADDR_HIGH),
      lo: registers.get(OFFSET.MSI_ADDR_LOW),
      // A function that was given fewer messages than it has numbers uses the first one.
      data: (data & ~(messages - 1)) | (number < messages ? number : 0),
    };
  }
}

/** An XT interrupt as the MSI that a processor's x2APIC takes: bits 31:8 of the destination in the upper address. */
function xtMessage(lo: number, hi: number): Msi {
  const destination = ((lo >>> 8) | ((hi >>> 24) << 24)) >>> 0;
  const logical = (lo & XT_INTERRUPT.DestinationMode.inPlace) !== 0 ? 4 : 0;
  const lowestPriority = (hi & XT_INTERRUPT.DeliveryMode.inPlace) !== 0 ? 0x100 : 0;
  return {
    hi: (destination & 0xffff_ff00) >>> 0,
    lo: (0xfee0_0000 | ((destination & 0xff) << 12) | logical) >>> 0,
    data: (hi & 0xff) | lowestPriority,
  };
}
