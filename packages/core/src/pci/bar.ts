import { big, exact, lo32, u64 } from '../base/u64.ts';
import type { BarMemory } from './bar-memory.ts';

// Base address registers, and how a device serves what lies behind them.

export type BarAccessSize = 1 | 2 | 4 | 8;

/** Serves loads and stores. Offsets are naturally aligned and lie within. Values are little-endian, of `size` bytes. */
export interface BarHandler {
  read(offset: number, size: BarAccessSize): bigint;
  write(offset: number, size: BarAccessSize, value: bigint): void;
}

/** A base address register and what lies behind it. */
export interface Bar {
  /** 0 to 5; a 64-bit one takes the next as well. */
  readonly index: number;
  /** Bytes: a power of two, from 16 (memory) or 4 (I/O) on. */
  readonly size: number;
  readonly kind: 'memory32' | 'memory64' | 'io';
  readonly prefetchable?: boolean;
  /**
   * Behind the BAR is memory that programs may map: loads and stores change it, and the device looks at it when it is
   * polled. Else {@link handler} serves it. It is as large as the BAR.
   */
  readonly memory?: BarMemory;
  readonly handler: BarHandler;
}

/** The widest naturally aligned access at an offset of which `left` bytes are wanted, `most` bytes at most. */
export function widestAccess(offset: number, left: number, most: BarAccessSize = 8): BarAccessSize {
  if (most >= 8 && left >= 8 && offset % 8 === 0) return 8;
  if (most >= 4 && left >= 4 && offset % 4 === 0) return 4;
  return most >= 2 && left >= 2 && offset % 2 === 0 ? 2 : 1;
}

/** 32-bit registers. Offsets are multiples of 4. */
export interface Registers32 {
  read32(offset: number): number;
  write32(offset: number, value: number): void;
}

/**
 * Serves accesses of every size by 32-bit registers: 8 bytes are two, the lower first; a store of 1 or 2 bytes leaves the
 * register's other bytes as they read.
 */
export function registers32(registers: Registers32): BarHandler {
  return {
    read(offset, size) {
      if (size === 8) return u64(registers.read32(offset + 4), registers.read32(offset));
      const value = registers.read32(offset & ~3) >>> 0;
      return big(size === 4 ? value : Math.floor(value / 2 ** (8 * (offset & 3))) & (2 ** (8 * size) - 1));
    },
    write(offset, size, value) {
      if (size === 8) {
        registers.write32(offset, lo32(value));
        registers.write32(offset + 4, lo32(value >> 32n));
      } else if (size === 4) registers.write32(offset, lo32(value));
      else {
        const shift = 8 * (offset & 3);
        const mask = ((2 ** (8 * size) - 1) << shift) >>> 0;
        const old = registers.read32(offset & ~3);
        registers.write32(offset & ~3, ((old & ~mask) | ((exact(value) << shift) & mask)) >>> 0);
      }
    },
  };
}
