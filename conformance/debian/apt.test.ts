import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { putInPlace } from './apt.mjs';

describe('a finished tree', () => {
  let work: string;
  let to: string;
  const whole = (): boolean => existsSync(`${to}/stamp`);

  beforeEach(() => {
    work = mkdtempSync(`${tmpdir()}/viommu-apt-`);
    to = `${work}/trees/one`;
    mkdirSync(`${work}/fresh`);
    for (const name of ['stamp', 'fresh']) writeFileSync(`${work}/fresh/${name}`, '');
  });
  afterEach(() => rmSync(work, { recursive: true }));

  function old(...names: string[]): void {
    mkdirSync(to, { recursive: true });
    for (const name of names) writeFileSync(`${to}/${name}`, '');
  }

  it('takes the place of nothing', () => {
    putInPlace(`${work}/fresh`, to, { force: false, whole });
    expect(existsSync(`${to}/fresh`)).toBe(true);
  });

  it('takes the place of half a tree', () => {
    old('half');
    putInPlace(`${work}/fresh`, to, { force: false, whole });
    expect([existsSync(`${to}/fresh`), existsSync(`${to}/half`)]).toEqual([true, false]);
  });

  it('leaves one that another process has finished, unless it is forced', () => {
    old('stamp');
    putInPlace(`${work}/fresh`, to, { force: false, whole });
    expect(existsSync(`${to}/fresh`)).toBe(false);
    putInPlace(`${work}/fresh`, to, { force: true, whole });
    expect(existsSync(`${to}/fresh`)).toBe(true);
  });

  it('that is not there is an error', () => {
    expect(() => putInPlace(`${work}/absent`, to, { force: false, whole })).toThrow('ENOENT');
  });
});
