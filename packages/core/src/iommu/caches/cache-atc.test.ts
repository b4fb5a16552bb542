import { expect, it } from 'vitest';
import { Atc } from './cache-atc.ts';

const entry = { translated: 0x8000_0000, sizeBits: 12, read: true, write: false, execute: false };
const all = { hi: 0, lo: 0, sizeBits: 64, pasid: null, global: false };

function filled(pasid: number | null = null): Atc {
  const atc = new Atc();
  atc.enable(true);
  atc.fill(0, 0x4000_0000, pasid, false, entry);
  return atc;
}

it('answers what it was given, for the whole block', () => {
  const atc = filled();
  expect(atc.lookup(0, 0x4000_0abc, null, false)).toEqual(entry);
  expect(atc.lookup(0, 0x4000_1000, null, false)).toBe(null);
  expect(atc.lookup(0, 0x4000_0000, 3, false)).toBe(null);
  expect(atc.lookup(0, 0x4000_0000, null, true)).toBe(null);
});

it('keeps nothing while ATS is off, and nothing of a completion that grants nothing', () => {
  const atc = new Atc();
  atc.fill(0, 0, null, false, entry);
  atc.enable(true);
  expect(atc.lookup(0, 0, null, false)).toBe(null);
  atc.fill(0, 0, null, false, { ...entry, read: false });
  expect(atc.lookup(0, 0, null, false)).toBe(null);
});

it('gives up the range of an Invalidate Request', () => {
  const atc = filled();
  atc.invalidate({ ...all, lo: 0x4000_1000, sizeBits: 12 });
  expect(atc.lookup(0, 0x4000_0000, null, false)).not.toBe(null);
  // Aligned down to its size.
  atc.invalidate({ ...all, lo: 0x4000_3000, sizeBits: 14 });
  expect(atc.lookup(0, 0x4000_0000, null, false)).toBe(null);
});

it('gives up a large block for any page in it', () => {
  const atc = new Atc();
  atc.enable(true);
  atc.fill(0, 0x4000_0000, null, false, { ...entry, sizeBits: 30 });
  atc.invalidate({ ...all, lo: 0x7fff_f000, sizeBits: 12 });
  expect(atc.lookup(0, 0x4000_0000, null, false)).toBe(null);
});

it('gives up one PASID, or all where none is named', () => {
  const atc = filled(3);
  atc.invalidate({ ...all, pasid: 2 });
  expect(atc.lookup(0, 0x4000_0000, 3, false)).not.toBe(null);
  atc.invalidate({ ...all, pasid: 3 });
  expect(atc.lookup(0, 0x4000_0000, 3, false)).toBe(null);
  const other = filled(3);
  other.invalidate(all);
  expect(other.lookup(0, 0x4000_0000, 3, false)).toBe(null);
});

it('is empty after ATS was off', () => {
  const atc = filled();
  atc.enable(false);
  atc.enable(true);
  expect(atc.lookup(0, 0x4000_0000, null, false)).toBe(null);
});
