import type { Result } from '../../../../base/result.ts';
import { IOMMU_NO_PASID, type Device, type IommuDomain, type IommuDriver } from '../../../driver.ts';
import { S1DSS } from '../../spec/ste.ts';
import { attachCommit, attachPrepare, attachState, detachPasid } from './attach.ts';
import { asSmmuDomain, SmmuDomainBase } from './domain-base.ts';
import type { Entry } from '../configuration/entry.ts';
import type { ArmSmmuMaster } from '../master.ts';
import { makeAbortSte, makeBypassSte } from '../configuration/ste.ts';

// Domains that are an STE and nothing else: arm-smmu-v3.c arm_smmu_identity_domain and arm_smmu_blocked_domain.

abstract class SteDomain extends SmmuDomainBase {
  protected abstract makeSte(master: ArmSmmuMaster): Entry;
  /** What the STE says of transactions without a PASID where a CD table has to stay. */
  protected abstract readonly s1Dss: number;

  // arm_smmu_attach_dev_ste()
  attachDevice(device: Device, old: IommuDomain | null): Result<void> {
    const master = device as ArmSmmuMaster;
    const atsAlwaysOn = master.atsAlwaysOn && this.s1Dss !== S1DSS.TERMINATE;
    master.smmu.exclusively(() => {
      master.vmaster = null;
      const cdTable = atsAlwaysOn || master.ssidsInUse;
      const state = attachState(master, asSmmuDomain(old), IOMMU_NO_PASID, { cdNeedsAts: cdTable });
      // Nothing in it can fail for a domain without translations.
      attachPrepare(state, this);
      master.installSte(cdTable ? master.makeCdTableSte(state.atsEnabled, this.s1Dss) : this.makeSte(master));
      attachCommit(state);
      master.clearCd(IOMMU_NO_PASID);
    });
  }
}

export class ArmSmmuIdentityDomain extends SteDomain {
  readonly type = 'identity';
  protected readonly s1Dss = S1DSS.BYPASS;

  protected makeSte(master: ArmSmmuMaster): Entry {
    return makeBypassSte(master.smmu.features.attrTypesOvr);
  }
}

export class ArmSmmuBlockedDomain extends SteDomain {
  readonly type = 'blocked';
  protected readonly s1Dss = S1DSS.TERMINATE;

  constructor() {
    super(null satisfies IommuDriver | null);
  }

  protected makeSte(): Entry {
    return makeAbortSte();
  }

  /** arm_smmu_blocking_set_dev_pasid(): the last PASID takes the CD table out of the STE again. */
  setDevicePasid(device: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const master = device as ArmSmmuMaster;
    master.smmu.exclusively(() => detachPasid(master, asSmmuDomain(old)!, pasid));
    if (master.ssidsInUse) return;
    const sidDomain = master.group.domain;
    const passive = sidDomain?.type === 'identity' || sidDomain?.type === 'blocked';
    const atsAlwaysOn = master.atsAlwaysOn && sidDomain?.type !== 'blocked';
    if (passive && !atsAlwaysOn) sidDomain.attachDevice(device, sidDomain);
  }
}
