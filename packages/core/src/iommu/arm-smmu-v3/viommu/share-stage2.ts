import { fail, type Result } from '../../../base/result.ts';
import { EINVAL, ENOMEM, ENOSPC } from '../../../abi/errno.ts';
import type { PagingDomain, PhysicalIommu } from '../../driver.ts';
import { ArmSmmuDomain } from '../driver/domains/domain.ts';
import type { ArmSmmu } from '../driver/smmu.ts';

// One stage 2 for a VM whose devices are behind several SMMUs. In Linux 7.3 a domain is one SMMU's (arm-smmu-v3.c
// arm_smmu_attach_dev()), since its VMID is; here the table is shared and each SMMU has a VMID for it.

/** What the table relies on that `smmu` lacks, or null. */
// Not whether it walks coherently: devices behind one that does not are refused when they are bound.
function lacks(smmu: ArmSmmu, { table }: ArmSmmuDomain): string | null {
  const { features } = smmu;
  if (!features.nesting) return 'cannot nest stages';
  if (features.oas < table.oas) return `has ${features.oas}-bit addresses, the table ${table.oas}`;
  if (table.pageSizes.some((bits) => !features.pageSizes.includes(bits))) return 'lacks a size of its pages';
  if (table.fwb && !features.s2fwb) return 'cannot force write-back, which the table relies on';
  return null;
}

/** `parent` where it is of that SMMU, else its table under a VMID there. EINVAL where the SMMU cannot walk it. */
export function shareStage2(iommu: PhysicalIommu, parent: PagingDomain): Result<ArmSmmuDomain> {
  const smmu = iommu as ArmSmmu;
  if (!(parent instanceof ArmSmmuDomain))
    return fail(EINVAL, `the stage 2 is not one of ${smmu.name}'s driver`);
  if (parent.smmu === smmu) return parent;
  const missing = lacks(smmu, parent);
  if (missing !== null) return fail(EINVAL, `${smmu.name} cannot share the stage 2: it ${missing}`);
  if (smmu.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
  const vmid = smmu.vmids.take();
  if (vmid === null) return fail(ENOSPC, `all VMIDs of ${smmu.name} are in use`);
  return new ArmSmmuDomain(smmu, parent.table, vmid, true, parent);
}
