import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL, ETIMEDOUT } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { deviceTlb, iotlbDomain, pasidIotlbAll, type Descriptor } from './driver/queues/descriptors.ts';
import { alignedBlock } from './driver/domains/cache-tags.ts';
import { Rig } from './testing/rig.ts';

function setUp(descriptorsPerStep = 1024): Rig {
  return new Rig(new Kernel(), { descriptorsPerStep });
}

describe('the invalidation queue', () => {
  it('goes round', () => {
    const rig = setUp();
    for (let i = 0; i < 300; i++) expect(rig.unit.dmar.invalidate([pasidIotlbAll(2, i)])).toBeUndefined();
    expect(rig.take()).toHaveLength(300);
  });

  it('waits for hardware that takes one descriptor at a time', () => {
    const rig = setUp(1);
    const many = Array.from({ length: 16 }, (_, i) => pasidIotlbAll(2, i));
    expect(rig.unit.dmar.invalidate(many)).toBeUndefined();
    expect(rig.take()).toHaveLength(16);
  });

  it('skips a descriptor that hardware refuses, with EINVAL', () => {
    const rig = setUp();
    const wrong: Descriptor = [0xf, 0, 0, 0];
    const refused = rig.unit.dmar.invalidate([wrong]);
    expect(failed(refused) && refused.errno).toBe(EINVAL);
    expect(rig.logs).toEqual([
      'Invalidation Queue Error: reason 3',
      'Invalidation Queue Error (IQE) cleared',
    ]);
    rig.take();
    expect(rig.unit.dmar.invalidate([iotlbDomain({ readDrain: true, writeDrain: true }, 2)])).toBeUndefined();
    expect(rig.take().at(-1)).toBe('iotlb domain did=2 dr dw');
  });

  it('gives up on a device that is gone, with ETIMEDOUT', () => {
    const rig = setUp();
    const gone = { requesterId: 0x400, pfsid: 0, queueDepth: 0 };
    const late = rig.unit.dmar.invalidate([deviceTlb(gone, 0, 0)]);
    expect(failed(late) && late.errno).toBe(ETIMEDOUT);
    expect(rig.logs[0]).toBe('Invalidation Time-out Error: SID 0x400');
    expect(rig.unit.dmar.invalidate([pasidIotlbAll(2, 0)])).toBeUndefined();
  });
});

describe('alignedBlock', () => {
  it('is the smallest aligned power of two that has both pages', () => {
    expect(alignedBlock(5, 5)).toEqual({ page: 5, order: 0 });
    expect(alignedBlock(8, 15)).toEqual({ page: 8, order: 3 });
    expect(alignedBlock(7, 8)).toEqual({ page: 0, order: 4 });
    expect(alignedBlock(2 ** 40, 2 ** 40 + 1)).toEqual({ page: 2 ** 40, order: 1 });
    expect(alignedBlock(2 ** 33 - 1, 2 ** 33)).toEqual({ page: 0, order: 34 });
  });

  it('is everything where the ends differ in the highest bit', () => {
    expect(alignedBlock(0, 2 ** 52 - 1)).toEqual({ page: 0, order: 52 });
    expect(alignedBlock(2 ** 52 - 1, 0)).toEqual({ page: 0, order: 52 });
  });
});
