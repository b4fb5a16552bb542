import { fail, type Result } from '../../base/result.ts';
import { hex, lo32 } from '../../base/u64.ts';
import { ETIMEDOUT } from '../../abi/errno.ts';

// How drivers reach registers: readl(), writel(), readq() and writeq(), and the loops around them.

/** Polls of a register that does not move before the hardware counts as dead; Linux waits for a second or so. */
export const POLLS_MAX = 4096;

/** A device's registers, as its bus has them. Sizes are 4 and 8 bytes. */
export interface RegisterBus {
  readRegister(offset: number, size: number): bigint;
  writeRegister(offset: number, size: number, value: bigint): void;
}

export class Mmio {
  readonly #bus: RegisterBus;
  readonly #relax: () => void;

  /** `relax` is cpu_relax(): time passes, and hardware goes on. */
  constructor(bus: RegisterBus, relax: () => void) {
    this.#bus = bus;
    this.#relax = relax;
  }

  read32(offset: number): number {
    return lo32(this.#bus.readRegister(offset, 4));
  }

  read64(offset: number): bigint {
    return this.#bus.readRegister(offset, 8);
  }

  write32(offset: number, value: number): void {
    this.#bus.writeRegister(offset, 4, BigInt(value >>> 0));
  }

  write64(offset: number, value: bigint): void {
    this.#bus.writeRegister(offset, 8, value);
  }

  relax(): void {
    this.#relax();
  }

  /** readl_poll_timeout(): ETIMEDOUT where the register never comes to satisfy `done`. */
  poll(offset: number, done: (value: number) => boolean): Result<number> {
    for (let polls = 0; polls < POLLS_MAX; polls++) {
      const value = this.read32(offset);
      if (done(value)) return value;
      this.#relax();
    }
    return fail(ETIMEDOUT, `the register at ${hex(offset)} does not answer`);
  }

  /** arm_smmu_write_reg_sync(): writes a register, and waits until another one shows that it took effect. */
  writeAcknowledged(value: number, offset: number, ackOffset: number): Result<void> {
    this.write32(offset, value);
    const acked = this.poll(ackOffset, (ack) => ack === value >>> 0);
    return typeof acked === 'number' ? undefined : acked;
  }
}
