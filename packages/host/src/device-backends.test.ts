import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { failed } from '@viommu/core/base/result';
import { hostBackends } from './device-backends.ts';

let directory = '';
const path = (name: string): string => join(directory, name);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'viommu-backends-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe('a file as a disk', () => {
  it('is read and written in place, as large as it is', () => {
    writeFileSync(path('disk'), Buffer.alloc(10 * 512 + 100, 7));
    const disk = hostBackends.openDisk(path('disk'), 512, false);
    if (failed(disk)) throw new Error(disk.reason);
    expect(disk.blocks).toBe(10n);
    expect([disk.write(2n, new Uint8Array(512).fill(9)), disk.zero(3n, 2), disk.flush()]).toEqual([
      true,
      true,
      true,
    ]);
    const back = new Uint8Array(4 * 512);
    expect(disk.read(1n, back)).toBe(true);
    expect([back[0], back[512], back[1024], back[2047]]).toEqual([7, 9, 0, 0]);
    expect(readFileSync(path('disk'))[5 * 512]).toBe(7);
  });

  it('that is only read refuses to be written', () => {
    writeFileSync(path('disk'), Buffer.alloc(512));
    const disk = hostBackends.openDisk(path('disk'), 512, true);
    if (failed(disk)) throw new Error(disk.reason);
    expect([disk.readOnly, disk.write(0n, new Uint8Array(512))]).toEqual([true, false]);
  });

  it('that is not there, or too small, is said', () => {
    writeFileSync(path('disk'), 'x');
    expect(hostBackends.openDisk(path('none'), 512, false)).toMatchObject({
      reason: expect.stringContaining('ENOENT') as unknown,
    });
    expect(hostBackends.openDisk(path('disk'), 512, false)).toMatchObject({
      reason: expect.stringContaining('smaller than a block') as unknown,
    });
  });
});

describe('files as a console', () => {
  it('get what is written, and give what they hold once something is', () => {
    writeFileSync(path('out'), 'before ');
    writeFileSync(path('in'), 'input');
    const made = hostBackends.openConsole({ output: path('out'), input: path('in') });
    if (failed(made)) throw new Error(made.reason);
    let told = 0;
    made.onInput = () => void told++;
    expect(made.available).toBe(0);
    made.write(Buffer.from('after'));
    expect([made.available, told]).toEqual([5, 1]);
    expect(readFileSync(path('out'), 'utf8')).toBe('before after');
    expect(Buffer.from(made.read(3)).toString() + Buffer.from(made.read(9)).toString()).toBe('input');
    expect(made.available).toBe(0);
  });
});
