import { fail, failed, type Result } from '../../../../base/result.ts';
import { EINVAL, ENOMEM } from '../../../../abi/errno.ts';
import { IOMMU_NO_PASID, type ViommuCore } from '../../../driver.ts';
import { tlbi } from '../queues/commands.ts';
import type { ArmSmmuDomain } from './domain.ts';
import type { SmmuDomainBase } from './domain-base.ts';
import { INV_TYPE, type Invalidation, type InvalidationList } from './invalidation-list.ts';
import { opcodesOf } from './invalidate.ts';
import type { ArmSmmuMaster } from '../master.ts';
import type { ArmSmmu } from '../smmu.ts';

// The change from one domain to another: arm-smmu-v3.c arm_smmu_attach_prepare() and arm_smmu_attach_commit(), between
// which the STE or CD is written. While that happens both domains invalidate for the device. ATS goes off at the device
// before the STE forbids it, and on after the STE allows it.

/** Who a device is to a guest: struct arm_smmu_vmaster. */
export interface Vmaster {
  readonly viommu: ViommuCore;
  readonly vsid: bigint;
}

/** A device that has a domain: struct arm_smmu_master_domain. */
export interface MasterDomain {
  readonly master: ArmSmmuMaster;
  /** The nested domain, where the list is that of its parent. */
  readonly domain: SmmuDomainBase;
  readonly ssid: number;
  readonly nestedAtsFlush: boolean;
  readonly usingIopf: boolean;
}

/** struct arm_smmu_attach_state. */
export interface AttachState {
  readonly master: ArmSmmuMaster;
  readonly old: SmmuDomainBase | null;
  readonly ssid: number;
  /** A CD table stays in use: its PASIDs may need ATS whatever the new domain is. */
  readonly cdNeedsAts?: boolean;
  readonly disableAts?: boolean;
  /** Set by {@link attachPrepare}. */
  atsEnabled: boolean;
  vmaster: Vmaster | null;
  /** What the old domain has for the device; `users` is 0 afterwards where nobody else had it. */
  oldInvs: Invalidation<ArmSmmu>[] | null;
}

export function attachState(
  master: ArmSmmuMaster,
  old: SmmuDomainBase | null,
  ssid: number,
  options: { readonly cdNeedsAts?: boolean; readonly disableAts?: boolean } = {},
): AttachState {
  return { master, old, ssid, ...options, atsEnabled: false, vmaster: null, oldInvs: null };
}

/** arm_smmu_master_build_invs(): what must be invalidated for a device when a domain changes. Sorted. */
function buildInvalidations(
  master: ArmSmmuMaster,
  ats: boolean,
  ssid: number,
  domain: ArmSmmuDomain,
): Invalidation<ArmSmmu>[] {
  const { smmu } = master;
  const list: Invalidation<ArmSmmu>[] = [];
  const add = (type: Invalidation['type'], id: number, tagSsid: number, pageBits: number): void => {
    const [sizeOpcode, nsizeOpcode] = opcodesOf(type, smmu.features.e2h);
    list.push({ smmu, type, sizeOpcode, nsizeOpcode, id, pageBits, ssid: tagSsid, users: 0 });
  };
  const pageBits = domain.table.pageSizes[0]!;
  if (domain.stage === 1) add(INV_TYPE.S1_ASID, domain.asid, IOMMU_NO_PASID, pageBits);
  else add(INV_TYPE.S2_VMID, domain.vmid, IOMMU_NO_PASID, pageBits);
  // Stage 1 of a guest is cached together with what stage 2 made of it.
  if (domain.nestParent) add(INV_TYPE.S2_VMID_S1_CLEAR, domain.vmid, IOMMU_NO_PASID, 0);
  const type = domain.nestParent ? INV_TYPE.ATS_FULL : INV_TYPE.ATS;
  if (ats) for (const sid of new Set(master.streamIds)) add(type, sid, ssid, 0);
  return list;
}

// arm_smmu_attach_prepare_invs(): the new domain's list, not yet in place; what the old one will drop goes into `state`.
function prepareInvalidations(
  state: AttachState,
  next: ArmSmmuDomain | null,
): Result<InvalidationList<ArmSmmu> | null> {
  const { master, ssid } = state;
  let merged: InvalidationList<ArmSmmu> | null = null;
  if (next !== null) {
    if (master.smmu.kernel.failpoint()) return fail(ENOMEM, 'no memory for the list of invalidations');
    merged = next.invs.merge(buildInvalidations(master, state.atsEnabled, ssid, next));
  }
  const old = state.old?.tracked ?? null;
  if (old !== null) state.oldInvs = buildInvalidations(master, master.atsEnabled, ssid, old);
  return merged;
}

/** Everything that can fail. Where it succeeds, the change has to be completed with {@link attachCommit}. */
export function attachPrepare(state: AttachState, next: SmmuDomainBase): Result<void> {
  const { master } = state;
  const tracked = next.tracked;
  if (tracked !== null || state.cdNeedsAts === true)
    state.atsEnabled = state.disableAts !== true && master.atsSupported;
  const merged = prepareInvalidations(state, tracked);
  if (failed(merged)) return merged;
  if (tracked !== null && merged !== null) {
    const entered = enter(state, next, tracked);
    if (failed(entered)) return entered;
    tracked.invs = merged;
  }
  if (!state.atsEnabled && master.atsEnabled) master.disableAts();
}

function enter(state: AttachState, next: SmmuDomainBase, tracked: ArmSmmuDomain): Result<void> {
  const { master } = state;
  const { kernel } = master.smmu;
  const vmaster = next.prepareVmaster(master);
  if (failed(vmaster)) return vmaster;
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the attachment');
  const usingIopf = next.iopfHandler === null ? false : master.enableIopf();
  if (failed(usingIopf)) return usingIopf;
  if (tracked.enforcesCacheCoherency && !master.canWbs) {
    if (usingIopf) master.disableIopf();
    return fail(EINVAL, `${master.name} does DMA that is not coherent`);
  }
  state.vmaster = vmaster;
  const { nestedAtsFlush } = next;
  tracked.devices.unshift({ master, domain: next, ssid: state.ssid, nestedAtsFlush, usingIopf });
}

/** After the STE or CD was written: the ATC follows, and the old domain forgets the device. */
export function attachCommit(state: AttachState): void {
  const { master } = state;
  master.vmaster = state.vmaster;
  if (state.atsEnabled && !master.atsEnabled) master.enableAts();
  else if (state.atsEnabled) master.invalidateAtc(state.ssid);
  else if (master.atsEnabled) master.invalidateAtc(IOMMU_NO_PASID);
  removeMasterDomain(master, state.old, state.ssid);
  dropOldInvalidations(state);
  master.atsEnabled = state.atsEnabled;
}

/** arm_smmu_remove_master_domain() */
function removeMasterDomain(master: ArmSmmuMaster, domain: SmmuDomainBase | null, ssid: number): void {
  const devices = domain?.tracked?.devices;
  if (devices === undefined || domain === null) return;
  const at = devices.findIndex(
    (each) =>
      each.master === master &&
      each.domain === domain &&
      each.ssid === ssid &&
      each.nestedAtsFlush === domain.nestedAtsFlush,
  );
  if (at < 0) return;
  const [removed] = devices.splice(at, 1);
  if (removed!.usingIopf) master.disableIopf();
}

/**
 * arm_smmu_install_old_domain_invs(): an ASID or VMID that no list has any more is left without entries in the IOTLB,
 * since nothing will invalidate it from now on.
 */
function dropOldInvalidations(state: AttachState): void {
  const { old, oldInvs } = state;
  const domain = old?.tracked ?? null;
  if (domain === null || oldInvs === null) return;
  domain.invs.unref(oldInvs);
  const tag = oldInvs[0]!;
  if (tag.users === 0) {
    const asid = tag.type === INV_TYPE.S1_ASID ? tag.id : 0;
    const vmid = tag.type === INV_TYPE.S2_VMID ? tag.id : 0;
    tag.smmu.issueWithSync(tlbi(tag.nsizeOpcode, asid, vmid));
  }
  if (!domain.smmu.kernel.failpoint()) domain.invs = domain.invs.purge() ?? domain.invs;
}

/** arm_smmu_blocking_set_dev_pasid(), without what follows for the STE. */
export function detachPasid(master: ArmSmmuMaster, old: SmmuDomainBase, ssid: number): void {
  const state = attachState(master, old, ssid);
  prepareInvalidations(state, null);
  master.clearCd(ssid);
  if (master.atsEnabled) master.invalidateAtc(ssid);
  removeMasterDomain(master, old, ssid);
  dropOldInvalidations(state);
}
