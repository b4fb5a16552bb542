// What accesses do, and what tables grant them.

import { AMD_V1_PERM } from '../../../../pagetable/amd-v1.ts';

/** What an access does, or is granted. The first two are AMD_V1_PERM. */
export const ACCESS = { READ: 1, WRITE: 2, EXECUTE: 4 } as const;
/** A guest entry's permissions are a supervisor's, and a user's from here on. */
export const USER_SHIFT = 3;
export const ALL_RIGHTS = AMD_V1_PERM.IR | AMD_V1_PERM.IW;

/** What an access needs of host tables: execution reads. */
export function hostAccess(access: number): number {
  return (access & ALL_RIGHTS) | ((access & ACCESS.EXECUTE) !== 0 ? ACCESS.READ : 0);
}

/** What host tables with these rights leave of an access. */
export function hostGrants(rights: number): number {
  return rights | ((rights & ACCESS.READ) !== 0 ? ACCESS.EXECUTE : 0);
}
