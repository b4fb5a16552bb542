// Global errors (§7.5) and interrupts: wired and by MSI (§3.18).

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { GERROR, IRQ_CTRL, OFFSET } from '../../spec/registers.ts';
import type { SmmuV3Features } from './config.ts';
import type { RegisterFile } from './registers.ts';
import type { Interrupt } from '../transaction.ts';

/** An MSI: a 32-bit write. */
export interface Msi {
  /** Bytes, a multiple of 4. */
  readonly address: number;
  readonly data: number;
}

interface Source {
  readonly interrupt: Interrupt;
  readonly enable: number;
  /** Offset of IRQ_CFG0. */
  readonly config: number;
  /** GERROR bit where its MSI aborts. */
  readonly aborted: number;
}

const SOURCES = {
  eventq: {
    interrupt: 'eventq',
    enable: IRQ_CTRL.EVENTQ_IRQEN.inPlace,
    config: OFFSET.EVENTQ_IRQ_CFG0,
    aborted: GERROR.MSI_EVENTQ_ABT_ERR.inPlace,
  },
  priq: {
    interrupt: 'priq',
    enable: IRQ_CTRL.PRIQ_IRQEN.inPlace,
    config: OFFSET.PRIQ_IRQ_CFG0,
    aborted: GERROR.MSI_PRIQ_ABT_ERR.inPlace,
  },
  gerror: {
    interrupt: 'gerror',
    enable: IRQ_CTRL.GERROR_IRQEN.inPlace,
    config: OFFSET.GERROR_IRQ_CFG0,
    aborted: GERROR.MSI_GERROR_ABT_ERR.inPlace,
  },
} as const satisfies Record<string, Source>;

export class Interrupts {
  readonly #memory: PhysicalMemory;
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #trace: Trace | null;
  readonly #onInterrupt: (which: Interrupt) => void;
  readonly #onMsi: (msi: Msi) => boolean;
  readonly #bytes = new Uint8Array(4);

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    trace: Trace | null,
    onInterrupt: (which: Interrupt) => void,
    onMsi: (msi: Msi) => boolean,
  ) {
    this.#memory = memory;
    this.#features = features;
    this.#registers = registers;
    this.#trace = trace;
    this.#onInterrupt = onInterrupt;
    this.#onMsi = onMsi;
  }

  /** Whether a global error is active: GERROR and GERRORN differ. */
  active(bit: number): boolean {
    return ((this.#registers.get(OFFSET.GERROR) ^ this.#registers.get(OFFSET.GERRORN)) & bit) !== 0;
  }

  /** Activates a global error, where it is not active already, and says so by interrupt (§7.5.1). */
  error(bit: number): void {
    if (this.active(bit)) return;
    this.#registers.set(OFFSET.GERROR, (this.#registers.get(OFFSET.GERROR) ^ bit) >>> 0);
    // The GERROR MSI has just aborted: no other one is sent about it.
    if (bit !== GERROR.MSI_GERROR_ABT_ERR.inPlace) this.raise('gerror');
  }

  /** An interrupt of a source that IRQ_CTRL enables. */
  raise(which: keyof typeof SOURCES): void {
    const source: Source = SOURCES[which];
    if (!this.#registers.irqEnabled(source.enable)) return;
    if (this.#features.msi) {
      const address = this.#registers.getAddress(source.config, 2);
      const data = this.#registers.get(source.config + 8);
      if (address !== 0 && !this.#send({ address, data })) this.error(source.aborted);
    }
    this.#wired(source.interrupt);
  }

  /** Completion of a CMD_SYNC that asked for an interrupt (§4.7.3). */
  completeSync(address: number, data: number): void {
    if (this.#features.msi && address !== 0 && !this.#send({ address, data })) {
      this.error(GERROR.MSI_CMDQ_ABT_ERR.inPlace);
    }
    this.#wired('cmd_sync');
  }

  /** The WFE wake-up event, where it is implemented. */
  wakeUp(): void {
    if (this.#features.sev) this.#wired('sev');
  }

  #wired(interrupt: Interrupt): void {
    if (this.#trace !== null && this.#trace.active)
      this.#trace.emit({ kind: 'interrupt', unit: 'smmuv3', interrupt });
    this.#onInterrupt(interrupt);
  }

  #send(msi: Msi): boolean {
    if (this.#trace !== null && this.#trace.active) this.#trace.emit({ kind: 'msi', unit: 'smmuv3', ...msi });
    // Addresses are truncated to the OAS (§3.4.3).
    const address = msi.address % this.#features.physicalLimit;
    if (this.#onMsi({ address, data: msi.data })) return true;
    for (let i = 0; i < 4; i++) this.#bytes[i] = (msi.data >>> (8 * i)) & 0xff;
    return this.#memory.write(address, this.#bytes);
  }
}
