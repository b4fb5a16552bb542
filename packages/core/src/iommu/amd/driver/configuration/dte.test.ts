import { describe, expect, it } from 'vitest';
import { writeField } from '../../../../base/bit-fields.ts';
import { Kernel } from '../../../../machine/kernel.ts';
import { DTE } from '../../spec/dte.ts';
import { DteWriter, emptyDte, makeClearDte, readDte, setDteGcr3, setDteV1, type Dte } from './dte.ts';

const TABLES = { gcr3: 0x12_3456_7000, glx: 1, levels: 4, ppr: false, giov: true } as const;

function host(): Dte {
  const dte = makeClearDte(null);
  setDteV1(dte, { root: 0x1_2345_6000, mode: 3, dirtyTracking: true }, 7, true);
  return dte;
}

function guest(levels: 4 | 5 = 4): Dte {
  const dte = makeClearDte(null);
  setDteGcr3(dte, { ...TABLES, levels }, 9, false);
  return dte;
}

/** Writes a DTE over another; answers which halves were stored, and when the IOMMU was told. */
function order(from: Dte, to: Dte): { seen: string[]; after: Dte } {
  const kernel = new Kernel();
  const at = kernel.physical.allocate(1);
  for (let i = 0; i < 8; i += 2) kernel.physical.store64(at + i * 4, from[i]!, from[i + 1]!);
  const seen: string[] = [];
  const store = kernel.physical.store64.bind(kernel.physical);
  kernel.physical.store64 = (pa, lo, hi) => {
    const half = pa - at < 16 ? 'lower' : 'upper';
    if (seen.at(-1) !== half) seen.push(half);
    return store(pa, lo, hi);
  };
  new DteWriter(kernel, at, () => seen.push('flush')).write(to);
  return { seen, after: readDte(kernel, at) };
}

describe('what the driver writes into a DTE', () => {
  it('is where AMD 48882 §2.2.2 has it: HAD in 8:7, I in 96, Cache clear', () => {
    const words = [...host()].map((word) => word.toString(16));
    // 62:61 IW and IR, 51:12 root, 11:9 Mode, 8:7 HAD, TV, V; 96 I, 79:64 domain.
    expect(words).toEqual(['23456783', '60000001', '7', '1', '0', '0', '0', '0']);
  });

  it('has the GCR3 table in three parts', () => {
    const dte = guest(5);
    const page = TABLES.gcr3 / 4096;
    const get = (msb: number, lsb: number): number => {
      const all = [...dte].reduce((value, word, i) => value | (BigInt(word) << BigInt(32 * i)), 0n);
      return Number.parseInt(((all >> BigInt(lsb)) & ((1n << BigInt(msb - lsb + 1)) - 1n)).toString(), 10);
    };
    expect(get(60, 58) + get(95, 80) * 8 + get(127, 107) * 2 ** 19).toBe(page);
    expect([get(54, 54), get(55, 55), get(57, 56), get(183, 182)]).toEqual([1, 1, 1, 1]);
  });
});

describe('a DTE that hardware may read while it changes', () => {
  it.each<[string, Dte, Dte, string[]]>([
    ['becomes valid: V last', emptyDte(), host(), ['upper', 'lower', 'flush']],
    ['becomes invalid: V first', host(), emptyDte(), ['lower', 'upper', 'flush']],
    ['gets guest tables: GV last', host(), guest(), ['upper', 'lower', 'flush']],
    ['loses guest tables: GV first', guest(), host(), ['lower', 'upper', 'flush']],
    ['keeps its guest levels: one half', guest(), guest(), ['lower']],
    [
      'changes its guest levels: not valid between',
      guest(4),
      guest(5),
      ['lower', 'flush', 'upper', 'lower', 'flush'],
    ],
  ])('%s', (_, from, to, expected) => {
    const { seen, after } = order(from, to);
    expect(seen).toEqual(expected);
    expect([...after]).toEqual([...to]);
  });

  it('keeps what concerns interrupts, which is not the driver of DMA’s', () => {
    const from = host();
    writeField(DTE.IV, from, 1);
    writeField(DTE.IntTabRoot, from, 0x1234);
    writeField(DTE.NMIPass, from, 1);
    const { after } = order(from, guest(5));
    const expected = guest(5);
    writeField(DTE.IV, expected, 1);
    writeField(DTE.IntTabRoot, expected, 0x1234);
    writeField(DTE.NMIPass, expected, 1);
    expect([...after]).toEqual([...expected]);
  });
});
