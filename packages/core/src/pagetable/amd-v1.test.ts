import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hi32, lo32 } from '../base/u64.ts';
import { Ram } from '../memory/physical.ts';
import {
  AMD_V1_FAULT,
  AmdV1Walker,
  amdV1Config,
  amdV1InWidth,
  amdV1OutputHi,
  amdV1SizedBits,
} from './amd-v1.ts';
import { type TableCache, aboveLo, addressOf } from './walk.ts';

describe('addresses', () => {
  it.each([1, 2, 3, 4, 5, 6])('§2.2.3: Mode %i resolves 12 bits and nine per level', (mode) => {
    const config = amdV1Config({ mode, root: 0, accessed: false, dirty: false });
    for (let bit = 12; bit < 64; bit++) {
      const address = 1n << BigInt(bit);
      const inside = bit < 12 + 9 * mode;
      expect([bit, amdV1InWidth(config, hi32(address), lo32(address))]).toEqual([bit, inside]);
    }
  });

  it('§2.2.3, table 14: the lowest clear bit of 51:12 says the size', () => {
    for (let bits = 13; bits <= 52; bits++) {
      const entry = (1n << BigInt(bits - 1)) - (1n << 12n);
      expect([bits, amdV1SizedBits(lo32(entry), hi32(entry))]).toEqual([bits, bits]);
    }
    expect(amdV1SizedBits(0xffff_f000, 0x000f_ffff)).toBe(0);
    expect(amdV1SizedBits(0x0000_0fff, 0xfff0_0000)).toBe(13);
  });

  it('§2.2.3: an output is bits 51 down to the size', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, (1n << 64n) - 1n), fc.integer({ min: 12, max: 52 }), (entry, bits) => {
        const low = (1n << BigInt(bits)) - 1n;
        const want = entry & ((1n << 52n) - 1n) & ~low;
        expect(BigInt(addressOf(amdV1OutputHi(hi32(entry), bits), lo32(entry) & aboveLo(bits)))).toBe(want);
      }),
    );
  });
});

describe('a walk', () => {
  /** A table at 1000h that leads to one at 2000h, whose first entry maps 5_0000h. */
  function tables(): { ram: Ram; walker: AmdV1Walker } {
    const ram = new Ram();
    for (const page of [1, 2]) ram.add(page);
    ram.store64(0x1000, 0x2000 | (1 << 9) | 1, 0x6000_0000);
    ram.store64(0x2000, 0x5_0000 | 1, 0x6000_0000);
    return { ram, walker: new AmdV1Walker(ram) };
  }
  const options = { mode: 2, root: 0x1000, accessed: false, dirty: false };
  const config = amdV1Config(options);

  it('leaves the page, its size, level and rights', () => {
    const { walker } = tables();
    expect(walker.walk(config, 0, 0xabc, 1)).toBe(true);
    expect(walker).toMatchObject({ out: 0x5_0000, leafBits: 12, level: 1, permissions: 3, clean: true });
  });

  it('leaves the level of the entry at fault', () => {
    const { walker } = tables();
    expect(walker.walk(config, 0, 0x1000, 1)).toBe(false);
    expect(walker).toMatchObject({ fault: AMD_V1_FAULT.NOT_PRESENT, level: 1 });
    expect(walker.walk(config, 0, 0x20_0000, 1)).toBe(false);
    expect(walker).toMatchObject({ fault: AMD_V1_FAULT.NOT_PRESENT, level: 2 });
    expect(walker.walk(config, 0, 0x4000_0000, 1)).toBe(false);
    expect(walker.fault).toBe(AMD_V1_FAULT.WIDTH);
  });

  it('starts at a table that the cache knows, with the rights on the way to it', () => {
    const { walker } = tables();
    const filled: number[][] = [];
    const cache: TableCache = {
      baseHi: 0,
      baseLo: 0x2000,
      inherited: 1,
      find: () => 1,
      fill: (...all) => void filled.push(all),
    };
    walker.cache = cache;
    expect(walker.walk(amdV1Config({ ...options, root: 0x9000 }), 0, 0, 1)).toBe(true);
    expect(walker).toMatchObject({ out: 0x5_0000, permissions: 1 });
    expect(filled).toEqual([]);
    walker.cache = { ...cache, find: () => 0 };
    expect(walker.walk(config, 0, 0xfff, 1)).toBe(true);
    expect(filled).toEqual([[0, 0xfff, 1, 0, 0x2000, 3, 21]]);
  });

  it('§2.2.2, HAD: sets flags, and faults where memory refuses that', () => {
    const { ram } = tables();
    const memory = {
      load64: (at: number, out: Uint32Array) => ram.load64(at, out),
      store64: () => false,
      read: () => false,
      write: () => false,
    };
    const walker = new AmdV1Walker(memory);
    expect(walker.walk(amdV1Config({ ...options, accessed: true }), 0, 0, 1)).toBe(false);
    expect(walker).toMatchObject({ fault: AMD_V1_FAULT.UPDATE, fetchAddress: 0x1000 });
  });
});
