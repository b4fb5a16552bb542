import { describe, expect, test } from 'vitest';
import { addToStatus, findSmapsEntry, parseMaps, parseStat, parseStatus } from './proc-text.ts';

const STATUS =
  'Name:\ta\nUmask:\t0022\nTgid:\t41\nPid:\t42\nPPid:\t7\nUid:\t1000\t0\t0\t0\n' +
  'VmLck:\t      16 kB\nVmPin:\t       0 kB\nCapEff:\t000001ffffffffff\n';

describe('/proc/TID/status', () => {
  test('names the process, its parent, the real user and what it may do', () => {
    expect(parseStatus(STATUS)).toEqual({ tgid: 41, parent: 7, uid: 1000, capabilities: 0x1ff_ffff_ffffn });
  });

  test('is refused where a line is missing', () => {
    expect(parseStatus('Tgid:\t41\n')).toBeNull();
    expect(parseStatus('')).toBeNull();
  });

  test('shows pages that are charged, added to what is there, in KiB', () => {
    const shown = addToStatus(STATUS, 2, 1_000_000);
    expect(shown).toContain('VmLck:\t      24 kB\nVmPin:\t 4000000 kB\n');
    expect(addToStatus(STATUS, 0, 0)).toBe(STATUS);
  });
});

test('/proc/TID/stat is parsed behind a name that looks like fields', () => {
  const fields = Array.from({ length: 50 }, (_, at) => String(at + 3)).join(' ');
  expect(parseStat(`12 (a) b (c) ${fields}`)).toEqual({ startTime: '22', startStack: '28' });
  expect(parseStat('')).toBeNull();
});

test('/proc/PID/maps tells protection, sharing and the file', () => {
  const text =
    '7f0000000000-7f0000002000 rw-s 00001000 00:01 1025   /memfd:buffer (deleted)\n' +
    'ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n';
  expect(parseMaps(text)).toEqual([
    {
      start: 0x7f00_0000_0000n,
      end: 0x7f00_0000_2000n,
      readable: true,
      writable: true,
      shared: true,
      offset: 4096n,
      major: 0,
      minor: 1,
      inode: 1025n,
      name: '/memfd:buffer (deleted)',
    },
    {
      start: 0xffff_ffff_ff60_0000n,
      end: 0xffff_ffff_ff60_1000n,
      readable: false,
      writable: false,
      shared: false,
      offset: 0n,
      major: 0,
      minor: 0,
      inode: 0n,
      name: '[vsyscall]',
    },
  ]);
});

test('/proc/PID/smaps tells the page size and the flags of the mapping that starts there', () => {
  const text =
    '00400000-00401000 r-xp 00000000 fe:00 1 /bin/a\nKernelPageSize:        4 kB\nVmFlags: rd ex\n' +
    '7f0000000000-7f0000200000 rw-s 0 00:0e 9 /anon_hugepage (deleted)\nKernelPageSize:     2048 kB\nVmFlags: rd wr ht io\n';
  expect(findSmapsEntry(text, 0x7f00_0000_0000n)).toEqual({
    pageBytes: 2 << 20,
    flags: ['rd', 'wr', 'ht', 'io'],
  });
  expect(findSmapsEntry(text, 0x40_0000n)).toEqual({ pageBytes: 4096, flags: ['rd', 'ex'] });
  expect(findSmapsEntry(text, 0x1000n)).toBeNull();
});
