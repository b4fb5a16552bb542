// What bounds the driver.

/** QI_LENGTH: descriptors of the invalidation queue. */
export const QI_LENGTH = 256;
/** QI_MAX_BATCHED_DESC_COUNT */
export const QI_BATCH_MAX = 16;
/** Submissions that are started over for a time-out before the device counts as dead: Linux goes on for ever. */
export const QI_RESTARTS_MAX = 64;
/** PRQ_ORDER: log2 of the pages of the page request queue. */
export const PRQ_ORDER = 4;
/** PASID_MAX */
export const PASID_MAX = 0x10_0000;
/** DEFAULT_DOMAIN_ADDRESS_WIDTH */
export const DEFAULT_ADDRESS_WIDTH = 57;
/** Faults that one interrupt takes: Linux goes on for as long as there are some. */
export const FAULTS_PER_INTERRUPT = 1 << 16;
