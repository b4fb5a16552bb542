// Bugs that were public, played on the hardware: what software forgot is visible as a stale answer, and what it should
// have done ends it.

import { describe, expect, it } from 'vitest';
import { AT, DATA, DID, Rig, VA, descriptor } from './rules/rig.ts';

const { devTlb, iotlb, pDevTlb, pIotlb } = descriptor;
const G1 = 1n << 30n;
const PASID = 5;

/** A nested page of a PASID, and where the last entries of both stages lie. */
function nested(): { rig: Rig; first: number; second: number } {
  const rig = new Rig();
  const tables = rig.nested({}, PASID);
  return { rig, first: tables.first.map(VA, G1), second: tables.second.map(G1, DATA) };
}

/** Where a write of the PASID lands, or the condition that blocks it. */
const lands = (rig: Rig): number | string | null =>
  rig.pa(VA, { pasid: PASID, write: true }) ?? rig.code(VA, { pasid: PASID, write: true });

describe('the PASID-based IOTLB was not flushed for nested and SVA domains (Linux 04b1b069f151)', () => {
  it('a page that the guest unmapped stays reachable after a flush by domain-id 0 or of another PASID', () => {
    const { rig, first } = nested();
    expect(lands(rig)).toBe(AT.data);
    rig.memory.put64(first, 0n);
    rig.run(pIotlb({ G: 3, DID: 0, PASID, address: VA }), pIotlb({ G: 3, PASID: 0, address: VA }));
    expect(lands(rig)).toBe(AT.data);
    rig.run(pIotlb({ G: 3, PASID, address: VA }));
    expect(lands(rig)).toBe('SFS.2');
  });

  it('a page-selective IOTLB invalidation of the wrong domain does not make up for it', () => {
    const { rig, first } = nested();
    lands(rig);
    rig.memory.put64(first, 0n);
    rig.run(iotlb({ G: 3, DID: DID + 1, address: VA }), iotlb({ G: 2, DID: DID + 1 }));
    expect(lands(rig)).toBe(AT.data);
  });
});

describe('the second stage changed without IOTLB and Device-TLB flushes of its nested users (deepin #1933, #1934)', () => {
  it('the IOTLB answers with the old page until the domain is invalidated', () => {
    const { rig, second } = nested();
    lands(rig);
    rig.memory.put64(second, (DATA + 0x5000n) | 3n);
    // What the change of a guest page would need is not enough for a change of the host's.
    rig.run(pIotlb({ G: 3, DID: DID + 1, PASID, address: VA }));
    expect(lands(rig)).toBe(AT.data);
    rig.run(iotlb({ G: 3, DID, address: G1 }));
    expect(lands(rig)).toBe(AT.data + 0x5000);
  });

  it('the Device-TLB answers with the old page until it is invalidated too', () => {
    const { rig, second } = nested();
    const device = rig.atsFunction();
    const write = (): number | string => {
      const outcome = device.translate(VA, { pasid: PASID, write: true });
      return outcome.kind === 'translated' ? outcome.pa : outcome.kind;
    };
    expect(write()).toBe(AT.data);
    rig.memory.put64(second, 0n);
    rig.run(iotlb({ G: 2, DID }));
    expect(write()).toBe(AT.data);
    // Without a PASID the invalidation takes entries of every PASID; with one, those of the PASID.
    rig.run(pDevTlb({ PASID: PASID + 1, address: VA }));
    expect(write()).toBe(AT.data);
    rig.run(pDevTlb({ PASID, address: VA }));
    expect(write()).toBe('denied');
  });

  it('the order matters: a Device-TLB that is flushed first is filled again from a stale IOTLB', () => {
    const { rig, second } = nested();
    const device = rig.atsFunction();
    const write = (): string => device.translate(VA, { pasid: PASID, write: true }).kind;
    write();
    rig.memory.put64(second, 0n);
    rig.run(devTlb({ address: 0x7fff_ffff_ffff_f000n, S: 1 }));
    expect(write()).toBe('translated');
    rig.run(iotlb({ G: 2, DID }));
    expect(write()).toBe('translated');
    rig.run(devTlb({ address: 0x7fff_ffff_ffff_f000n, S: 1 }));
    expect(write()).toBe('denied');
  });
});

describe('dirty tracking flushed with the wrong domain-id (deepin #1934)', () => {
  it('a page whose Dirty was cleared is written without becoming dirty again', () => {
    const rig = new Rig();
    const tables = rig.second({ SSADE: 1 });
    tables.map(VA, DATA);
    const dirty = (): boolean => (tables.get(tables.entry(VA, 1)) & 0x200n) !== 0n;
    rig.pa(VA, { write: true });
    expect(dirty()).toBe(true);
    tables.clear(VA, 1, 0x200n);
    rig.run(iotlb({ G: 3, DID: DID + 1, address: VA }));
    rig.pa(VA, { write: true });
    expect(dirty()).toBe(false);
    rig.run(iotlb({ G: 3, DID, address: VA }));
    rig.pa(VA, { write: true });
    expect(dirty()).toBe(true);
  });

  it('SSADE that is set without a flush is not seen by pages that are cached', () => {
    const rig = new Rig();
    const tables = rig.second();
    tables.map(VA, DATA);
    rig.pa(VA, { write: true });
    rig.repasid({ SSADE: 1 });
    rig.run(descriptor.pc({ G: 1, DID, PASID: 0 }));
    rig.pa(VA, { write: true });
    expect(tables.get(tables.entry(VA, 1)) & 0x200n).toBe(0n);
    rig.run(iotlb({ G: 2, DID }));
    rig.pa(VA, { write: true });
    expect(tables.get(tables.entry(VA, 1)) & 0x200n).toBe(0x200n);
  });
});

describe('Device-TLBs were never flushed (pKVM-IA #84)', () => {
  it('translated requests go where the tables no longer lead', () => {
    const rig = new Rig();
    const place = rig.second().map(VA, DATA);
    const device = rig.atsFunction();
    const kind = (): string => device.translate(VA, { write: true }).kind;
    kind();
    rig.memory.put64(place, 0n);
    rig.run(iotlb());
    expect(kind()).toBe('translated');
    device.atc.enable(false);
    expect(kind()).toBe('blocked');
  });
});
