import { findProfile, PROFILES, type Profile } from '@viommu/core/iommufd/profile';
import { findTrialUapi, TRIAL_UAPIS, type TrialUapi } from '@viommu/core/iommufd/trial-uapi';
import { UsageError } from './usage-error.ts';

/** The kernel profile of that name. */
export function profileNamed(name: string): Profile {
  const profile = findProfile(name);
  if (profile !== null) return profile;
  const known = PROFILES.map((each) => each.name).join(', ');
  throw new UsageError(`--kernel ${name}: there is no such kernel; there are ${known}`);
}

/** The trial uAPIs of those names. */
export function uapisNamed(names: readonly string[] = []): TrialUapi[] {
  return names.map((name) => {
    const uapi = findTrialUapi(name);
    if (uapi !== null) return uapi;
    throw new UsageError(`--uapi ${name}: there is no such uAPI; there is ${TRIAL_UAPIS.join(', ')}`);
  });
}
