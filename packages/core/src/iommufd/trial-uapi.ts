// uAPIs that were talked about and are not in Linux, at least not like this. A machine has none of them unless it asks.

/** The name of a trial uAPI, as machine files and --uapi spell it. */
export type TrialUapi = 'rfc-2023-12' | 'amd-viommu';

export const TRIAL_UAPIS: readonly TrialUapi[] = ['rfc-2023-12', 'amd-viommu'];

/** The trial uAPI of that name, or null. */
export function findTrialUapi(name: string): TrialUapi | null {
  return TRIAL_UAPIS.find((uapi) => uapi === name) ?? null;
}
