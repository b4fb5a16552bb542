import { assert } from '../../../../base/assert.ts';

// Which caches know a domain: arm-smmu-v3.c arm_smmu_invs_merge(), _unref() and _purge() (Linux 7.1 and later). The list
// is sorted, so that what must come first when a domain changes does: TLBs before ATCs, stage 2 before nested stage 1.

/** In the order in which commands are sent: enum arm_smmu_inv_type. */
export const INV_TYPE = { S1_ASID: 0, S2_VMID: 1, S2_VMID_S1_CLEAR: 2, ATS: 3, ATS_FULL: 4 } as const;
export type InvType = (typeof INV_TYPE)[keyof typeof INV_TYPE];

/** What the list knows of an SMMU: its place among the others. */
export interface InvalidationTarget {
  readonly index: number;
}

/** struct arm_smmu_inv. */
export interface Invalidation<Target extends InvalidationTarget = InvalidationTarget> {
  readonly smmu: Target;
  readonly type: InvType;
  /** The command for a range, and the one for everything. */
  readonly sizeOpcode: number;
  readonly nsizeOpcode: number;
  /** ASID, VMID or StreamID. */
  readonly id: number;
  /** log2 of the leaf page, which range commands count in. */
  readonly pageBits: number;
  /** ATS entries: the PASID. */
  readonly ssid: number;
  /** 0 marks an entry that is only left because nobody could make a new list. */
  users: number;
}

export function isAts(inv: Invalidation): boolean {
  return inv.type === INV_TYPE.ATS || inv.type === INV_TYPE.ATS_FULL;
}

/** arm_smmu_inv_cmp() */
function compareInvalidations(a: Invalidation, b: Invalidation): number {
  if (a.smmu !== b.smmu) return a.smmu.index - b.smmu.index;
  if (a.type !== b.type) return a.type - b.type;
  if (a.id !== b.id) return a.id - b.id;
  return isAts(a) ? a.ssid - b.ssid : 0;
}

/** struct arm_smmu_invs. */
export class InvalidationList<Target extends InvalidationTarget = InvalidationTarget> {
  /** Ends with an entry that has users; others may lie between. */
  entries: Invalidation<Target>[] = [];

  /** num_trashes */
  get trashes(): number {
    return this.entries.reduce((count, inv) => count + (inv.users === 0 ? 1 : 0), 0);
  }

  /** The entries that count. */
  live(): Invalidation<Target>[] {
    return this.entries.filter((inv) => inv.users > 0);
  }

  /** arm_smmu_invs_merge(): a new list with one user more for each entry of `toMerge`, which is sorted. */
  merge(toMerge: readonly Invalidation<Target>[]): InvalidationList<Target> {
    const merged = new InvalidationList<Target>();
    const mine = this.live();
    let left = 0;
    let right = 0;
    while (left < mine.length || right < toMerge.length) {
      const a = mine[left];
      const b = toMerge[right];
      const order = a === undefined ? 1 : b === undefined ? -1 : compareInvalidations(a, b);
      if (order > 0) merged.entries.push({ ...b!, users: 1 });
      else merged.entries.push({ ...a!, users: a!.users + (order === 0 ? 1 : 0) });
      if (order <= 0) left++;
      if (order >= 0) right++;
    }
    assertSorted(merged.entries);
    return merged;
  }

  /**
   * arm_smmu_invs_unref(): one user less for each entry of `toUnref`; cannot fail. Entries of `toUnref` have 0 users
   * afterwards where theirs was the last.
   */
  unref(toUnref: readonly Invalidation<Target>[]): void {
    for (const gone of toUnref) {
      const found = this.entries.find((inv) => inv.users > 0 && compareInvalidations(inv, gone) === 0);
      assert(found !== undefined, 'an invalidation is dropped that was never merged');
      found.users--;
      gone.users = found.users > 0 ? 1 : 0;
    }
    while (this.entries.at(-1)?.users === 0) this.entries.pop();
  }

  /** arm_smmu_invs_purge(): a list without the entries that nobody uses, or null where there are none. */
  purge(): InvalidationList<Target> | null {
    if (this.trashes === 0) return null;
    const purged = new InvalidationList<Target>();
    purged.entries = this.live().map((inv) => ({ ...inv }));
    return purged;
  }
}

function assertSorted(entries: readonly Invalidation[]): void {
  for (let i = 1; i < entries.length; i++)
    assert(compareInvalidations(entries[i - 1]!, entries[i]!) < 0, 'the list of invalidations is not sorted');
}
