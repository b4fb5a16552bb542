import { describe, expect, test } from 'vitest';
import { tmpfsMounts } from './placeholder-directory.ts';
import { parseUnsigned } from './pseudo-files.ts';
import { chooseWindow } from './spawn.ts';

test('the window of stopped reads is the upper quarter of what select(2) takes and the limit allows', () => {
  expect(chooseWindow(20_000)).toEqual({ low: 768, high: 1024 });
  expect(chooseWindow(1024)).toEqual({ low: 768, high: 1024 });
  expect(chooseWindow(256)).toEqual({ low: 192, high: 256 });
  expect(chooseWindow(4)).toEqual({ low: 3, high: 4 });
});

test('mount points of tmpfs are found, blanks and all', () => {
  expect(
    tmpfsMounts(
      '25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw\n' +
        '27 1 254:0 / / rw - ext4 /dev/vda rw\n' +
        '28 1 0:30 / /run/a\\040b rw shared:5 - tmpfs none rw\n',
    ),
  ).toEqual(['/dev/shm', '/run/a b']);
});

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
