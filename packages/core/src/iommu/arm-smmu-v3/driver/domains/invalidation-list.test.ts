import { describe, expect, it } from 'vitest';
import { INV_TYPE, InvalidationList, type Invalidation, type InvType } from './invalidation-list.ts';

// The steps are those of arm_smmu_v3_invs_test() (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-test.c).

const smmu = { index: 0 };
const inv = (type: InvType, id: number, ssid = 0): Invalidation => ({
  smmu,
  type,
  id,
  ssid,
  sizeOpcode: 0,
  nsizeOpcode: 0,
  pageBits: 12,
  users: 0,
});
const { S2_VMID, S2_VMID_S1_CLEAR, ATS } = INV_TYPE;

const entries = (list: InvalidationList): number[][] => list.entries.map((each) => [each.id, each.users]);

describe('the invalidations of a domain', () => {
  it('are counted, kept in order, and leave gaps until they are purged', () => {
    const first = [inv(S2_VMID, 1), inv(S2_VMID_S1_CLEAR, 1), inv(ATS, 3)];
    const second = [inv(S2_VMID, 1), inv(ATS, 4), inv(ATS, 5)];
    const third = [inv(S2_VMID, 1), inv(ATS, 5), inv(ATS, 6)];
    let list = new InvalidationList().merge(first);
    expect(entries(list)).toEqual([
      [1, 1],
      [1, 1],
      [3, 1],
    ]);
    list = list.merge(second);
    expect(entries(list)).toEqual([
      [1, 2],
      [1, 1],
      [3, 1],
      [4, 1],
      [5, 1],
    ]);
    list.unref(second);
    expect(entries(list)).toEqual([
      [1, 1],
      [1, 1],
      [3, 1],
    ]);
    expect(list.trashes).toBe(0);
    list = list.merge(third);
    expect(entries(list)).toEqual([
      [1, 2],
      [1, 1],
      [3, 1],
      [5, 1],
      [6, 1],
    ]);
    list.unref(first);
    expect(entries(list)).toEqual([
      [1, 1],
      [1, 0],
      [3, 0],
      [5, 1],
      [6, 1],
    ]);
    expect(list.trashes).toBe(2);
    list = list.purge()!;
    expect(entries(list)).toEqual([
      [1, 1],
      [5, 1],
      [6, 1],
    ]);
    list.unref(third);
    expect(list.entries).toEqual([]);
    expect(list.purge()).toBeNull();
  });

  it('tell ATC entries of different PASIDs apart', () => {
    const first = [inv(ATS, 10, 1), inv(ATS, 10, 3), inv(ATS, 12, 1)];
    const second = [inv(ATS, 10, 2), inv(ATS, 10, 3), inv(ATS, 12, 2)];
    const list = new InvalidationList().merge(first).merge(second);
    const tagged = (): number[][] => list.entries.map((each) => [each.id, each.ssid, each.users]);
    expect(tagged()).toEqual([
      [10, 1, 1],
      [10, 2, 1],
      [10, 3, 2],
      [12, 1, 1],
      [12, 2, 1],
    ]);
    list.unref(second);
    expect(tagged()).toEqual([
      [10, 1, 1],
      [10, 2, 0],
      [10, 3, 1],
      [12, 1, 1],
    ]);
  });

  it('say which entries had their last user', () => {
    const first = [inv(S2_VMID, 1), inv(ATS, 3)];
    const second = [inv(S2_VMID, 1)];
    const list = new InvalidationList().merge(first).merge(second);
    list.unref(first);
    expect(first.map((each) => each.users)).toEqual([1, 0]);
    list.unref(second);
    expect(second[0]!.users).toBe(0);
  });

  it('are sorted by SMMU before anything else', () => {
    const other = { index: 1 };
    const list = new InvalidationList().merge([{ ...inv(S2_VMID, 1), smmu: other }]).merge([inv(ATS, 9)]);
    expect(list.entries.map((each) => each.smmu.index)).toEqual([0, 1]);
  });
});
