// What bounds the driver: drivers/iommu/amd/amd_iommu_types.h.

/** CMD_BUFFER_ENTRIES, and of an event log and a PPR log of EVTLOG_SIZE_DEF and PPRLOG_SIZE_DEF. */
export const RING_LOG2 = 9;
/** What __iommu_queue_command_sync() leaves free in the command buffer: bytes. */
export const COMMAND_ROOM_BYTES = 0x20;
/** MAX_DOMAIN_ID */
export const DOMAIN_IDS = 65536;
/** pdev_enable_cap_pri(): "Hardcode number of outstanding requests for now". */
export const PRI_OUTSTANDING = 32;
/** Events and page requests that one interrupt takes: Linux goes on for as long as there are some. */
export const RECORDS_PER_INTERRUPT = 1 << 20;
/** Pages of the address space: 2^64 bytes. */
export const ALL_PAGES = 2 ** 52;
