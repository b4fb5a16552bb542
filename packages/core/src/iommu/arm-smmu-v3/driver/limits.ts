// What bounds the driver.

/** CMDQ_BATCH_ENTRIES: BITS_PER_LONG. */
export const CMDQ_BATCH_ENTRIES = 64;
/**
 * Q_MAX_SZ_SHIFT with CONFIG_CMA_ALIGNMENT of 8, the default of arm64: log2 of the bytes that a queue takes at most. A
 * guest under QEMU sees the same kernel ask for 32768 events.
 */
export const QUEUE_BYTES_LOG2_MAX = 20;
/** Events and page requests that one interrupt takes: Linux goes on for as long as there are some. */
export const EVENTS_PER_INTERRUPT = 1 << 20;
/** STRTAB_SPLIT: log2 of the STEs in a table of the second level. */
export const STRTAB_SPLIT = 8;
/** STRTAB_MAX_L1_ENTRIES */
export const STRTAB_L1_ENTRIES_MAX = 1 << 17;
/** CTXDESC_L2_ENTRIES: CDs in a table of the second level. */
export const CD_L2_ENTRIES = 1024;
/** CTXDESC_LINEAR_CDMAX: log2 of the CDs in a linear table where there is no other kind. */
export const CD_LINEAR_LOG2_MAX = 10;
