import { findProfile, PROFILES, type Profile } from '@viommu/core/iommufd/profile';
import { UsageError } from './usage-error.ts';

/** The kernel profile of that name. */
export function profileNamed(name: string): Profile {
  const profile = findProfile(name);
  if (profile !== null) return profile;
  const known = PROFILES.map((each) => each.name).join(', ');
  throw new UsageError(`--kernel ${name}: there is no such kernel; there are ${known}`);
}
