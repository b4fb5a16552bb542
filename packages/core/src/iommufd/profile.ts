// Which Linux answers. Numbers compare as versions: 6.6 is 606, 7.3 is 703.

/** A kernel version as one number: major * 100 + minor. */
export type KernelVersion = number;

/** A Linux release and how its iommufd differs from the newest that is known. */
export interface Profile {
  readonly name: string;
  readonly version: KernelVersion;
}

export const PROFILES: readonly Profile[] = [
  { name: 'linux-6.6', version: 606 },
  { name: 'linux-6.12', version: 612 },
  { name: 'linux-6.13', version: 613 },
  { name: 'linux-6.15', version: 615 },
  { name: 'linux-6.17', version: 617 },
  { name: 'linux-7.0', version: 700 },
  { name: 'linux-7.1', version: 701 },
  { name: 'linux-7.3', version: 703 },
];

/** What a machine answers as where nothing else is asked. */
export const DEFAULT_PROFILE = 'linux-7.3';

/** The profile of that name, or null. */
export function findProfile(name: string): Profile | null {
  return PROFILES.find((profile) => profile.name === name) ?? null;
}

/**
 * Whether Linux `version` has what came with `since`, or has it from an update: the profile of a long-term release is the
 * last update of it that was looked at, which for 6.12 is 6.12.117.
 */
export function hasFix(
  version: KernelVersion,
  since: KernelVersion,
  backported: readonly KernelVersion[],
): boolean {
  return version >= since || backported.includes(version);
}

/** 606 as '6.6'. */
export function versionName(version: KernelVersion): string {
  return `${Math.floor(version / 100)}.${version % 100}`;
}
