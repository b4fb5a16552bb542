// Parts and forms of input addresses, which are two u32.

/** The low `bits` bits of an address, 52 at most. */
export function offsetIn(hi: number, lo: number, bits: number): number {
  if (bits <= 31) return lo & ((1 << bits) - 1);
  return (hi & ((1 << (bits - 32)) - 1)) * 0x1_0000_0000 + (lo >>> 0);
}

/** Whether an address with a PASID has bits 63:47 or 63:56 alike. */
export function canonical(hi: number, levels: 4 | 5): boolean {
  return (hi | 0) >> 31 === (hi | 0) >> (levels === 4 ? 15 : 24);
}

/** Whether an address without a PASID fits 48 or 57 bits. */
export function zeroExtended(hi: number, levels: 4 | 5): boolean {
  return hi >>> (levels === 4 ? 16 : 25) === 0;
}

/** The canonical form of a zero-extended address: tables are indexed alike. */
export function signExtend(hi: number, levels: 4 | 5): number {
  if (levels === 4) return (hi & 0x8000) !== 0 ? hi | 0xffff_0000 : hi;
  return (hi & 0x100_0000) !== 0 ? hi | 0xfe00_0000 : hi;
}

/** Interrupts are writes to these addresses: FEE0_0000h to FEEF_FFFFh. */
export const INTERRUPT_RANGE_START = 0xfee0_0000;
export const INTERRUPT_RANGE_BITS = 20;

/** Whether the block of 2^bits bytes (30 at most) that an address lies in has addresses of the interrupt range. */
export function inInterruptRange(hi: number, lo: number, bits = 12): boolean {
  return hi === 0 && (lo ^ INTERRUPT_RANGE_START) >>> Math.max(bits, INTERRUPT_RANGE_BITS) === 0;
}
