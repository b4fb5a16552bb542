import { describe, expect, it } from 'vitest';
import { IOMMU_HWPT_ALLOC_DIRTY_TRACKING } from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import type { Descriptor } from './driver/queues/descriptors.ts';
import type { IntelNestedDomain } from './driver/domains/nested-domain.ts';
import type { IntelPagingDomain } from './driver/domains/paging-domain.ts';
import { GuestTables } from './testing/guest-tables.ts';
import { DESC } from './spec/invalidation.ts';
import { PAGE, PROT, Rig, type RigFunction } from './testing/rig.ts';
import { bytesOf } from '../../base/testing/ascii.ts';

// Mistakes that drivers for VT-d have had in public. Each test makes the mistake on the driver's way to the queue: the
// model has to show what it leads to, and must not where it is not made.

const GVA = 0x12_3456_7000n;
const GPA = 0x10_0000n;
const MIB = 0x10_0000n;
const typeOf = (descriptor: Descriptor): number => descriptor[0] & 0xf;

/** What becomes of a descriptor: itself, another one, or nothing. */
type Mistake = (descriptor: Descriptor) => Descriptor | null;

function without(...types: readonly number[]): Mistake {
  return (descriptor) => (types.includes(typeOf(descriptor)) ? null : descriptor);
}

/** The domain id is one that nobody has. */
const wrongDid: Mistake = (descriptor) => {
  const [lo, ...rest] = descriptor;
  const named = [DESC.IOTLB_INV, DESC.PC_INV].some((type) => type === typeOf(descriptor));
  return named ? [((lo & 0xffff) | (0x77 << 16)) >>> 0, ...rest] : descriptor;
};

/** A guest with one page at GVA, in the table and where `put` says. */
class Guest {
  readonly rig = new Rig(new Kernel());
  readonly device: RigFunction;
  readonly parent: IntelPagingDomain;
  readonly nested: IntelNestedDomain;
  readonly #tables: GuestTables;

  constructor(withAts: boolean, pasid = 0) {
    const { rig } = this;
    this.device = rig.device(0x100, { withAts });
    this.parent = rig.parent(this.device, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    const pa = rig.ram('', 256);
    this.parent.map(GPA, pa, MIB, PROT);
    this.#tables = new GuestTables(rig.kernel.physical, pa, GPA);
    this.put('old');
    this.nested = rig.nested(this.device, this.parent, this.#tables.root);
    expect(rig.attach(this.device, this.nested, pasid)).toBe(0);
  }

  /** The entry of GVA leads to a page with the text. */
  put(text: string): void {
    const page = this.#tables.page();
    this.rig.kernel.physical.write(this.#tables.hostAddress(page), bytesOf(text));
    this.#tables.map(GVA, page);
  }

  /** From now on the driver makes the mistake. */
  make(mistake: Mistake | null): void {
    const { dmar } = this.rig.unit;
    const send = dmar.invalidate.bind(dmar);
    dmar.invalidate = (descriptors, drain) => {
      if (mistake === null) return send(descriptors, drain);
      return send(
        descriptors.map(mistake).filter((each) => each !== null),
        drain,
      );
    };
  }
}

describe.each([
  { mistake: null, seen: 'new' },
  { mistake: without(DESC.P_IOTLB_INV), seen: 'old' },
])('PASID-based IOTLB invalidations of nested domains, left out or not: $seen', ({ mistake, seen }) => {
  // Linux 04b1b069f151: they were not sent for nested domains.
  it.each([0, 5])('for PASID %i', (pasid) => {
    const guest = new Guest(false, pasid);
    const by = pasid === 0 ? null : pasid;
    guest.make(mistake);
    expect(guest.device.read(GVA, by)).toBe('old');
    guest.put('new');
    guest.rig.invalidate(guest.nested, [{ addr: GVA }]);
    expect(guest.device.read(GVA, by)).toBe(seen);
  });
});

describe('a second stage that changes under nested domains', () => {
  const unmapped = (withAts: boolean, mistake: Mistake | null): string => {
    const guest = new Guest(withAts);
    guest.make(mistake);
    expect(guest.device.read(GVA)).toBe('old');
    expect(guest.parent.unmap(GPA, MIB)).toBe(MIB);
    return guest.device.read(GVA);
  };

  it('is still reached where the IOTLB is not told', () => {
    expect(unmapped(false, null)).toBe('fault');
    expect(unmapped(false, without(DESC.IOTLB_INV))).toBe('old');
  });

  it('is still reached where the device’s translation cache is not told', () => {
    expect(unmapped(true, null)).toBe('fault');
    expect(unmapped(true, without(DESC.DEV_TLB_INV))).toBe('old');
  });

  it('is still reached where the invalidation names the wrong domain id', () => {
    expect(unmapped(false, wrongDid)).toBe('old');
  });
});

describe('dirty tracking', () => {
  const dirtyPages = (mistake: Mistake | null): number => {
    const guest = new Guest(false);
    expect(guest.device.read(GVA)).toBe('old');
    guest.make(mistake);
    expect(guest.parent.setDirtyTracking(true)).toBeUndefined();
    expect(guest.device.write(GVA, 'hit')).toBe('done');
    let pages = 0;
    guest.parent.readAndClearDirty(GPA, MIB, true, () => void pages++);
    return pages;
  };

  it('misses writes where it is turned on under the wrong domain id', () => {
    expect(dirtyPages(null)).toBeGreaterThan(0);
    expect(dirtyPages(wrongDid)).toBe(0);
  });

  it('sees writes to pages that are mapped after it was turned on', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(0x100);
    const domain = rig.domain(device, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    rig.attach(device, domain);
    expect(domain.setDirtyTracking(true)).toBeUndefined();
    domain.map(GPA, rig.ram('abc'), PAGE, PROT);
    expect(device.write(GPA, 'xyz')).toBe('done');
    const pages: bigint[] = [];
    domain.readAndClearDirty(GPA, PAGE, true, (iova) => void pages.push(iova));
    expect(pages).toEqual([GPA]);
  });
});
