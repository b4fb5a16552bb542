import { describe, expect, test } from 'vitest';
import { parseUnsigned } from './pseudo-files.ts';

describe('a number as the kernel parses it (kstrtouint, base 0)', () => {
  test.each([
    ['0', 0],
    ['17\n', 17],
    ['+5', 5],
    ['0x1F', 31],
    ['010', 8],
    ['4294967295', 4_294_967_295],
    ['4294967296', Infinity],
  ])('%j is %d', (text, value) => {
    expect(parseUnsigned(text)).toBe(value);
  });

  test.each(['', '\n', ' 1', '1 ', '1\n\n', '-1', '08', '0x', 'x'])('%j is none', (text) => {
    expect(parseUnsigned(text)).toBeNull();
  });
});
