import { BarMemory } from '../bar-memory.ts';
import type { BarHandler } from '../bar.ts';
import type { DeviceModel, FunctionDescription, PciFunction, TranslationFeatures } from '../function.ts';
import { LoopbackRings } from './loopback.ts';
import {
  BMCR_LOOPBACK,
  CTRL_FD,
  CTRL_RST,
  EECD_AUTO_RD,
  EECD_PRES,
  GCR_CMPL_TMOUT_RESEND,
  GPIE_EIAME,
  IGB_BAR_BYTES,
  IGB_DEVICE,
  IGB_MSIX_BAR_BYTES,
  IGB_VECTORS,
  IGB_VENDOR,
  IVAR_VALID,
  MDIC_DATA_MASK,
  MDIC_OP_READ,
  MDIC_OP_WRITE,
  MDIC_READY,
  MII_BMCR,
  RCTL_LBM_MAC,
  REG,
  STATUS_FD,
  STATUS_LU,
  STATUS_SPEED_1000,
} from './registers.ts';

/** Packets that one poll sends. */
const PACKETS_A_POLL = 256;
const PHY_REGISTERS = 32;

const RESET_VALUES: ReadonlyMap<number, number> = new Map([
  [REG.CTRL, CTRL_FD],
  [REG.STATUS, STATUS_FD | STATUS_LU | STATUS_SPEED_1000],
  [REG.EECD, EECD_PRES | EECD_AUTO_RD],
  [REG.GCR, GCR_CMPL_TMOUT_RESEND],
]);
const NO_HANDLER: BarHandler = { read: () => 0n, write: () => {} };

/**
 * An Intel 82576 that hears itself: one queue each way, internal loopback, and the interrupts of one vector; what Linux's
 * tools/testing/selftests/vfio/lib/drivers/igb/igb.c drives. Its registers are memory that programs map, so they are read
 * when the device is polled:
 *
 * - Registers that set or clear something (EICS, EIMS, EIMC, IMC) read as 0 once they took effect.
 * - A program writes EIMC, RDT, TDT, then waits, then EICR, EIMS, EICS. The device reads them in the opposite order, so
 *   that it never takes a later store for an earlier one.
 * - A program that sees a descriptor written back clears EICR at once. So the cause shows there before the descriptor does;
 *   shown later, it would undo what the program cleared.
 */
export class Igb implements DeviceModel {
  readonly description: FunctionDescription;
  readonly #memory = new BarMemory(IGB_BAR_BYTES);
  readonly #phy = new Uint16Array(PHY_REGISTERS);
  #pci!: PciFunction;
  #rings!: LoopbackRings;
  /** EIMS and EICR as the device has them. */
  #mask = 0;
  #causes = 0;
  #polling = false;

  constructor(features: TranslationFeatures = {}) {
    const stored = (): void => {
      if (this.poll()) this.#pci.wake();
    };
    this.description = {
      identity: { vendor: IGB_VENDOR, device: IGB_DEVICE, revision: 1, classCode: 0x020000 },
      bars: [
        {
          index: 0,
          size: IGB_BAR_BYTES,
          kind: 'memory32',
          memory: this.#memory,
          handler: this.#memory.handler(stored),
        },
        { index: 3, size: IGB_MSIX_BAR_BYTES, kind: 'memory32', handler: NO_HANDLER },
      ],
      msi: 1,
      msix: { vectors: IGB_VECTORS, bar: 3, table: 0, pba: 0x2000 },
      ...features,
    };
  }

  connect(pci: PciFunction): void {
    this.#pci = pci;
    this.#rings = new LoopbackRings(this.#memory, pci.dma, () => this.#note(this.#receiveCause));
  }

  reset(): void {
    this.#reset(0);
  }

  /** `mdic`: what a program has written there already, after the reset that it asked for. */
  #reset(mdic: number): void {
    for (const offset of Object.values(REG))
      this.#memory.set32(offset, offset === REG.MDIC ? mdic : (RESET_VALUES.get(offset) ?? 0));
    this.#phy.fill(0);
    this.#mask = 0;
    this.#causes = 0;
    this.#rings.reset();
  }

  poll(): boolean {
    if (this.#polling) return false;
    this.#polling = true;
    const set = this.#take(REG.EICS);
    const enabled = this.#take(REG.EIMS);
    const acknowledged = this.#acknowledged();
    const tails = this.#rings.readTails();
    const disabled = this.#take(REG.EIMC);
    // A program that disables has enabled before, perhaps after EIMS was read above.
    this.#mask |= enabled | (disabled === 0 ? 0 : this.#take(REG.EIMS));
    if (acknowledged) this.#causes = 0;
    this.#note(set);
    this.#deliver(set | enabled);
    this.#mask &= ~disabled;
    this.#control();
    const result = this.#rings.run(tails, this.#loops, PACKETS_A_POLL);
    if (result.received > 0 || result.hung) this.#pci.emit('igb', { ...result });
    if (result.received > 0) this.#deliver(this.#receiveCause);
    this.#polling = false;
    return result.more;
  }

  /** Reads a register that takes effect by being written, and clears it. */
  #take(offset: number): number {
    const value = this.#memory.get32(offset);
    if (value !== 0) this.#memory.set32(offset, 0);
    return value;
  }

  /** EICR: a program has written over the causes that it showed. */
  #acknowledged(): boolean {
    const shown = this.#memory.get32(REG.EICR);
    if (shown === this.#causes >>> 0) return false;
    this.#memory.set32(REG.EICR, 0);
    return true;
  }

  #control(): void {
    const control = this.#memory.get32(REG.CTRL);
    const mdic = this.#memory.get32(REG.MDIC);
    if ((control & CTRL_RST) !== 0) this.#reset((mdic & MDIC_READY) === 0 ? mdic : 0);
    const pending = (mdic & (MDIC_OP_WRITE | MDIC_OP_READ)) !== 0 && (mdic & MDIC_READY) === 0;
    if (pending) this.#memory.set32(REG.MDIC, this.#managePhy(mdic));
  }

  /** MDIC: a read or a write of a register of the PHY. */
  #managePhy(mdic: number): number {
    const register = (mdic >>> 16) & (PHY_REGISTERS - 1);
    if ((mdic & MDIC_OP_WRITE) !== 0) this.#phy[register] = mdic & MDIC_DATA_MASK;
    return ((mdic & ~MDIC_DATA_MASK) | this.#phy[register]! | MDIC_READY) >>> 0;
  }

  /** Packets come back: by the PHY's loopback, or by the MAC's, which the hardware has not and QEMU's model has. */
  get #loops(): boolean {
    const phy = (this.#phy[MII_BMCR]! & BMCR_LOOPBACK) !== 0;
    return phy || (this.#memory.get32(REG.RCTL) & RCTL_LBM_MAC) !== 0;
  }

  /** The cause of receive queue 0, whose vector IVAR0 bits 7:0 name; 0 where it has none. */
  get #receiveCause(): number {
    const entry = this.#memory.get32(REG.IVAR0) & 0xff;
    return (entry & IVAR_VALID) === 0 ? 0 : 1 << (entry & 0x1f);
  }

  /** Causes come up: they show in EICR. */
  #note(causes: number): void {
    if ((causes & ~this.#causes) === 0) return;
    this.#causes |= causes;
    this.#memory.set32(REG.EICR, this.#causes);
  }

  /** Of the causes that came up, or that were enabled, those that are not masked become messages: datasheet §7.3.2. */
  #deliver(causes: number): void {
    const ready = this.#causes & this.#mask & causes;
    if (ready === 0) return;
    const kept = this.#causes & ~(ready & this.#memory.get32(REG.EIAC));
    if (kept !== this.#causes) this.#memory.set32(REG.EICR, kept);
    this.#causes = kept;
    if ((this.#memory.get32(REG.GPIE) & GPIE_EIAME) !== 0)
      this.#mask &= ~(ready & this.#memory.get32(REG.EIAM));
    for (let vector = 0; vector < IGB_VECTORS; vector++)
      if ((ready & (1 << vector)) !== 0) this.#pci.signal(vector);
  }
}
