import { fail, failed, type Result } from '../../../base/result.ts';
import { hex } from '../../../base/u64.ts';
import { EBUSY, EINVAL, EIO, ENOMEM, EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_HWPT_DATA_ARM_SMMUV3 } from '../../../abi/iommufd.ts';
import { iommu_hwpt_arm_smmuv3 } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import { IOMMU_NO_PASID, type Device, type IommuDomain } from '../../driver.ts';
import { copyUserData, type UserData } from '../../user-data.ts';
import { EATS, STE, STE_CONFIG } from '../spec/ste.ts';
import { attachCommit, attachPrepare, attachState, type Vmaster } from '../driver/domains/attach.ts';
import type { ArmSmmuDomain } from '../driver/domains/domain.ts';
import { asSmmuDomain, SmmuDomainBase } from '../driver/domains/domain-base.ts';
import { addMasks, emptyEntry, getField, setField, type Entry } from '../driver/configuration/entry.ts';
import type { ArmSmmuMaster } from '../driver/master.ts';
import { makeAbortSte, S1CTXPTR_MASK, steConfig } from '../driver/configuration/ste.ts';
import type { ArmVsmmu } from './vsmmu.ts';

// A guest's STE over a nest parent: arm-smmu-v3-iommufd.c arm_vsmmu_alloc_domain_nested() and what attaches it.

/** Domains that translate nothing can be attached before there is a vDEVICE since this Linux. */
const NO_VDEVICE_SINCE = 619;

/** STRTAB_STE_0_NESTING_ALLOWED and STRTAB_STE_1_NESTING_ALLOWED: what a guest decides. */
function allowedBits(): Entry {
  const allowed = addMasks(emptyEntry(), STE.V, STE.Config, STE.S1Fmt, STE.S1CDMax);
  allowed[0]! |= S1CTXPTR_MASK;
  return addMasks(allowed, STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.EATS);
}
const ALLOWED = allowedBits();

/** The guest's STE, without the EATS that the kernel decides. */
interface GuestSte {
  readonly words: Entry;
  /** The guest has ATS on, and so sends the invalidations of its ATC. */
  readonly enableAts: boolean;
}

/** arm_smmu_validate_vste(): EIO is for STEs that cannot be. */
function validate(ste: Entry): Result<GuestSte> {
  if (getField(ste, STE.V) === 0n) return { words: emptyEntry(), enableAts: false };
  if ((ste[0]! & ~ALLOWED[0]!) !== 0n || (ste[1]! & ~ALLOWED[1]!) !== 0n)
    return fail(EIO, `the STE ${hex(ste[0]!)} ${hex(ste[1]!)} has bits that a guest does not decide`);
  const config = steConfig(ste);
  if (config !== STE_CONFIG.ABORT && config !== STE_CONFIG.BYPASS && config !== STE_CONFIG.S1_TRANS)
    return fail(EIO, `Config ${config} of the STE enables a stage 2, or is reserved`);
  const eats = getField(ste, STE.EATS);
  if (eats !== BigInt(EATS.ABORT) && eats !== BigInt(EATS.TRANS))
    return fail(EIO, `EATS ${eats} of the STE is neither off nor full ATS`);
  const words = ste.slice();
  setField(words, STE.EATS, 0);
  return { words, enableAts: config === STE_CONFIG.S1_TRANS && eats === BigInt(EATS.TRANS) };
}

export function allocNestedDomain(
  vsmmu: ArmVsmmu,
  flags: number,
  memory: AddressSpace,
  data: UserData,
): Result<IommuDomain> {
  if (flags !== 0) return fail(EOPNOTSUPP, 'nested domains of an SMMUv3 take no flags');
  const { size } = iommu_hwpt_arm_smmuv3;
  const bytes = copyUserData(memory, data, IOMMU_HWPT_DATA_ARM_SMMUV3, size, size);
  if (failed(bytes)) return bytes;
  const ste = emptyEntry();
  ste.set(iommu_hwpt_arm_smmuv3.read(bytes).ste.slice(0, 2));
  const valid = validate(ste);
  if (failed(valid)) return valid;
  if (vsmmu.smmu.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
  return new ArmSmmuNestedDomain(vsmmu, valid);
}

/** struct arm_smmu_nested_domain. */
export class ArmSmmuNestedDomain extends SmmuDomainBase {
  readonly type = 'nested';
  readonly vsmmu: ArmVsmmu;
  readonly #ste: GuestSte;

  constructor(vsmmu: ArmVsmmu, ste: GuestSte) {
    super(vsmmu.smmu.driver);
    this.vsmmu = vsmmu;
    this.#ste = ste;
  }

  override get tracked(): ArmSmmuDomain {
    return this.vsmmu.s2Parent;
  }

  override get nestedAtsFlush(): boolean {
    return this.#ste.enableAts;
  }

  /** What the guest's STE says to do; STE.Config of one that is not valid is 0. */
  get config(): number {
    return steConfig(this.#ste.words);
  }

  /** arm_smmu_attach_prepare_vmaster(): only what translates needs to know who it is. */
  override prepareVmaster(master: ArmSmmuMaster): Result<Vmaster | null> {
    const { core, smmu } = this.vsmmu;
    const vsid = core.virtualIdOf(master);
    if (failed(vsid)) {
      const passive = this.config === STE_CONFIG.ABORT || this.config === STE_CONFIG.BYPASS;
      return passive && smmu.kernel.version >= NO_VDEVICE_SINCE ? null : vsid;
    }
    if (smmu.kernel.failpoint()) return fail(ENOMEM, 'no memory for the virtual StreamID');
    return { viommu: core, vsid };
  }

  /** arm_smmu_attach_dev_nested() */
  attachDevice(device: Device, old: IommuDomain | null): Result<void> {
    const master = device as ArmSmmuMaster;
    if (this.vsmmu.smmu !== master.smmu) return fail(EINVAL, `${master.name} is behind another SMMU`);
    if (master.ssidsInUse) return fail(EBUSY, `${master.name} has PASIDs of the host`);
    // The guest's own EATS says whether it invalidates the ATC; if it does not, there must be none.
    const disableAts = this.config === STE_CONFIG.S1_TRANS && !this.#ste.enableAts;
    return master.smmu.exclusively(() => {
      const state = attachState(master, asSmmuDomain(old), IOMMU_NO_PASID, { disableAts });
      const prepared = attachPrepare(state, this);
      if (failed(prepared)) return prepared;
      master.installSte(this.makeSte(master, state.atsEnabled));
      attachCommit(state);
    });
  }

  /** arm_smmu_make_nested_domain_ste() */
  makeSte(master: ArmSmmuMaster, ats: boolean): Entry {
    const { words } = this.#ste;
    switch (this.config) {
      case STE_CONFIG.BYPASS:
        return this.tracked.makeSte(master, ats);
      case STE_CONFIG.S1_TRANS: {
        const ste = this.tracked.makeSte(master, ats);
        ste[0] = words[0]!;
        setField(ste, STE.Config, STE_CONFIG.NESTED);
        ste[1]! |= words[1]!;
        // A guest must not fill the event queue with what is always the same.
        setField(ste, STE.MEV, 1);
        return ste;
      }
      default:
        return makeAbortSte();
    }
  }
}
