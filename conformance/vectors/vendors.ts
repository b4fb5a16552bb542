import { amd } from './amd.ts';
import { smmuv3 } from './smmuv3.ts';
import type { Vendor } from './vendor.ts';
import { vtd } from './vtd.ts';

/** Every family of recordings that can be run. */
export const VENDORS: readonly Vendor[] = [smmuv3, vtd, amd];
