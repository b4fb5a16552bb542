import type { GuestMemory, GuestTables } from '../../testing/guest.ts';

// For tests: what a guest writes for an SMMUv3: its CD, its STEs, its commands.

/** A guest's CD: T0SZ 16, 4 KiB, 48-bit IPAs, with records. `stall` sets CD.S. */
export function writeGuestCd(
  memory: GuestMemory,
  at: bigint,
  tables: GuestTables,
  asid: number,
  stall = false,
): void {
  const EPD1 = 1n << 30n;
  const V = 1n << 31n;
  const IPS_48 = 5n << 32n;
  const AA64 = 1n << 41n;
  const S = stall ? 1n << 44n : 0n;
  const R_A = 3n << 45n;
  const words = [16n | EPD1 | V | IPS_48 | AA64 | S | R_A | (BigInt(asid) << 48n), tables.root, 0n, 0xffn];
  for (const [index, word] of words.entries()) memory.write64(at + BigInt(index) * 8n, word);
}

/** The first words of a guest's STE with a linear CD table of 2^log2 entries. */
export function guestSte(
  cdTable: bigint,
  options: { log2?: bigint; ats?: boolean; s1Dss?: bigint } = {},
): [bigint, bigint] {
  const { log2 = 0n, ats = false, s1Dss = 2n } = options;
  const V_S1 = 1n | (5n << 1n);
  return [
    V_S1 | cdTable | (log2 << 59n),
    s1Dss | (1n << 2n) | (1n << 4n) | (3n << 6n) | (ats ? 1n << 28n : 0n),
  ];
}

export const STE_ABORT: [bigint, bigint] = [1n, 0n];
export const STE_BYPASS: [bigint, bigint] = [9n, 0n];

/** Commands as a guest writes them into its queue. */
export const guestCommand = {
  tlbiAll: (): [bigint, bigint] => [0x30n, 0n],
  tlbiNhAll: (): [bigint, bigint] => [0x10n, 0n],
  tlbiAsid: (asid: number): [bigint, bigint] => [0x11n | (BigInt(asid) << 48n), 0n],
  tlbiVa: (asid: number, iova: bigint): [bigint, bigint] => [0x12n | (BigInt(asid) << 48n), iova | 1n],
  tlbiVaa: (iova: bigint): [bigint, bigint] => [0x13n, iova | 1n],
  cfgiCd: (vsid: number, ssid = 0): [bigint, bigint] => [
    0x05n | (BigInt(ssid) << 12n) | (BigInt(vsid) << 32n),
    1n,
  ],
  cfgiCdAll: (vsid: number): [bigint, bigint] => [0x06n | (BigInt(vsid) << 32n), 0n],
  /** Everything, or `log2` pages of 4 KiB. */
  atcInv: (vsid: number, iova = 0n, log2 = 52n): [bigint, bigint] => [
    0x40n | (BigInt(vsid) << 32n),
    iova | log2,
  ],
};
