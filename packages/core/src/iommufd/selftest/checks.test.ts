import { expect, test } from 'vitest';
import { CHECKED_BYTES_MAX } from '../../base/limits.ts';
import { EIO, ENOMEM } from '../../abi/errno.ts';
import { Program } from '../testing/program.ts';

test('pins are looked at in no more memory than takes seconds', () => {
  const program = new Program();
  const va = 1n << 40n;
  program.process.memory.map(va, CHECKED_BYTES_MAX * 2n, {});
  expect(program.checkRefs(va, 0x4000n, 0)).toBe(0);
  expect(program.checkRefs(va, CHECKED_BYTES_MAX * 2n, 1)).toBe(-EIO);
  expect(program.checkRefs(va, CHECKED_BYTES_MAX * 2n, 0)).toBe(-ENOMEM);
}, 30_000);
