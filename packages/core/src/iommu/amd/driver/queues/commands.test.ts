import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ALL, invalidateIotlb, invalidatePages, invalidationAddress } from './commands.ts';

const words = (command: Uint32Array): string[] => [...command].map((word) => word.toString(16));

describe('invalidations of a range', () => {
  it('cover one aligned power of two, coded as table 14 of AMD 48882 has it', () => {
    const of = (first: number, last: number): string => {
      const { page, s } = invalidationAddress({ first, last });
      return `${page.toString(16)}${s ? ' S' : ''}`;
    };
    expect(of(0x12345, 0x12345)).toBe('12345');
    // 8 KiB: no ones. 16 KiB: one in bit 12.
    expect(of(0x12344, 0x12345)).toBe('12344 S');
    expect(of(0x12344, 0x12347)).toBe('12345 S');
    expect(of(0x200, 0x3ff)).toBe('2ff S');
    // 4 PiB is the largest size, beyond it is everything.
    expect(of(0, 2 ** 40 - 1)).toBe('7fffffffff S');
    expect(of(0, 2 ** 40)).toBe('7ffffffffffff S');
    expect(of(ALL.first, ALL.last)).toBe('7ffffffffffff S');
  });

  it('cover every page that they are asked for', () => {
    const page = fc.oneof(fc.nat(0xffff), fc.integer({ min: 0, max: 2 ** 40 - 1 }));
    fc.assert(
      fc.property(page, page, (a, b) => {
        const [first, last] = [Math.min(a, b), Math.max(a, b)];
        const coded = invalidationAddress({ first, last });
        if (!coded.s) return first === last && coded.page === first;
        // The lowest clear bit from bit 12 on says the size.
        let bits = 1;
        let rest = coded.page;
        for (; rest % 2 === 1; rest = (rest - 1) / 2) bits++;
        const start = Math.floor(coded.page / 2 ** bits) * 2 ** bits;
        return start <= first && last < start + 2 ** bits;
      }),
    );
  });

  it('carry PDE, GN and the PASID where they are asked to', () => {
    expect(words(invalidatePages({ first: 5, last: 5 }, 7, 9, {}))).toEqual(['0', '30000007', '5000', '0']);
    const guest = invalidatePages(ALL, 7, 9, { gn: true, pde: true });
    expect(words(guest)).toEqual(['9', '30000007', 'fffff007', '7fffffff']);
    const device = invalidateIotlb(0x1234, 32, ALL, 0x3abc, true);
    expect(words(device)).toEqual(['203a1234', '40bc1234', 'fffff005', '7fffffff']);
  });
});
