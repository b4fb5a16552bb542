import { smmuv3 } from './smmuv3.ts';
import type { Vendor } from './vendor.ts';

/** Every family of recordings that can be run. */
export const VENDORS: readonly Vendor[] = [smmuv3];
