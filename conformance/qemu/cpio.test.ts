import { expect, test } from 'vitest';
import { newc } from './cpio.mjs';

const HEAD = 110;

/** The members of an archive, read as Linux does it (init/initramfs.c do_header()). */
function read(archive: Buffer) {
  const members: { name: string; mode: number; data: string }[] = [];
  for (let at = 0; at < archive.length;) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = archive.toString('latin1', at + HEAD, at + HEAD + nameSize - 1);
    const body = Math.ceil((at + HEAD + nameSize) / 4) * 4;
    members.push({ name, mode, data: archive.toString('latin1', body, body + size) });
    at = Math.ceil((body + size) / 4) * 4;
  }
  return members;
}

test('an archive holds its directories, files and links, and ends with the trailer', () => {
  const archive = newc([
    { name: 'bin' },
    { name: 'bin/a', data: Buffer.from('abcde') },
    { name: 'bin/b', link: 'a' },
    { name: 'empty', mode: 0o600, data: Buffer.alloc(0) },
  ]);
  expect(read(archive)).toEqual([
    { name: 'bin', mode: 0o040755, data: '' },
    { name: 'bin/a', mode: 0o100755, data: 'abcde' },
    { name: 'bin/b', mode: 0o120755, data: 'a' },
    { name: 'empty', mode: 0o100600, data: '' },
    { name: 'TRAILER!!!', mode: 0o100755, data: '' },
  ]);
});
