// Permissions of the direct scheme (DDI 0487 D8.4), as masks of PERM. Stage 1's are a table per configuration, indexed by
// the bits that a descriptor and the tables above it contribute.

import { PERM } from './armv8.ts';

export interface PermissionOptions {
  /** False where all accesses are privileged: EL2 without E2H (IHI 0070G.b §13.4.1). */
  readonly unprivileged: boolean;
  /** CD.WXN */
  readonly wxn: boolean;
  /** CD.PAN, for data accesses of privileged transactions. */
  readonly pan: boolean;
  /** CD.EPAN: PAN also looks at unprivileged execution. */
  readonly epan: boolean;
}

/**
 * Index of the table of {@link stage1Permissions}: AP[2:1] in 1:0, APTable in 3:2, UXN or XN in 4, PXN in 5 (each
 * including what the table descriptors say).
 */
export function permissionIndex(ap: number, apTable: number, xn: number, pxn: number): number {
  return ap | (apTable << 2) | (xn << 4) | (pxn << 5);
}

/** What each combination of descriptor bits allows. DDI 0487 AArch64.S1DirectBasePermissions(). */
export function stage1Permissions(options: PermissionOptions): Uint8Array {
  const table = new Uint8Array(64);
  for (let index = 0; index < 64; index++) {
    table[index] = options.unprivileged ? bothLevels(index, options) : oneLevel(index, options);
  }
  return table;
}

function bothLevels(index: number, { wxn, pan, epan }: PermissionOptions): number {
  const readOnly = (index & 2) !== 0 || (index & 8) !== 0;
  const unprivileged = (index & 1) !== 0 && (index & 4) === 0;
  let pr = true;
  let pw = !readOnly;
  const ur = unprivileged;
  const uw = unprivileged && !readOnly;
  const ux = (index & 16) === 0;
  // What unprivileged accesses can write, privileged ones never execute.
  const px = (index & 32) === 0 && !uw;
  if (pan && (ur || uw || (epan && ux))) {
    pr = false;
    pw = false;
  }
  return (
    (pr ? PERM.PR : 0) |
    (pw ? PERM.PW : 0) |
    (px && !(wxn && pw) ? PERM.PX : 0) |
    (ur ? PERM.UR : 0) |
    (uw ? PERM.UW : 0) |
    (ux && !(wxn && uw) ? PERM.UX : 0)
  );
}

/** AP[1] is taken to be 1, APTable[0] and PXN do not exist: both levels have the same permissions. */
function oneLevel(index: number, { wxn }: PermissionOptions): number {
  const write = (index & 2) === 0 && (index & 8) === 0;
  const execute = (index & 16) === 0 && !(wxn && write);
  return PERM.PR | PERM.UR | (write ? PERM.PW | PERM.UW : 0) | (execute ? PERM.PX | PERM.UX : 0);
}

/**
 * Stage 2 permissions by S2AP[1:0] in 1:0 and XN[1:0] in 3:2 (descriptor bits 54:53). With XNX the two XN bits tell
 * privileged from unprivileged execution; without it XN[1] alone decides. DDI 0487 AArch64.S2DirectBasePermissions().
 */
export function stage2Permissions(xnx: boolean): Uint8Array {
  const table = new Uint8Array(16);
  for (let index = 0; index < 16; index++) {
    const xn = index >>> 2;
    const px = xnx ? xn === 0 || xn === 3 : xn < 2;
    const ux = xnx ? xn === 0 || xn === 1 : xn < 2;
    table[index] =
      (index & 1 ? PERM.PR | PERM.UR : 0) |
      (index & 2 ? PERM.PW | PERM.UW : 0) |
      (px ? PERM.PX : 0) |
      (ux ? PERM.UX : 0);
  }
  return table;
}
